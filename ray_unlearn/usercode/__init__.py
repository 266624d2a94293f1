"""A user's own code: scripts, `package.module:factory`, and what both import from their folder.

`imports` finds, imports and forgets it, `sources` lists the files and distributions it is made of and hashes them,
`isolation` puts the process back after a run, and `offline` refuses connections while a factory works.

Does not cover: what the code is for: a method (`methods.script`), an architecture (`models.architectures`). Nothing
here is a sandbox: a user's code runs with the user's rights.
"""
