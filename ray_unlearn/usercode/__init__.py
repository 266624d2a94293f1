"""A user's own code: scripts, `package.module:factory`, and what both import from their folder.

`imports` finds, imports and forgets it, `sources` lists the files and distributions it is made of and hashes them, and
`offline` refuses connections while a factory works. A script is executed in a process of its own: `apart` calls it and
takes its result, `fork_server` starts the server (`serving`) that forks such processes, `wire` has their messages, and
`processes` ends what they started. `memory` is about the package's own process.

Does not cover: what the code is for: a method (`methods.script`), an architecture (`models.architectures`). Nothing
here is a sandbox: a user's code runs with the user's rights.
"""
