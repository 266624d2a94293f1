"""Checks that the Ray that this process is connected to is still alive: its raylet on this machine, and its GCS.

    watch = RayWatch(local=True, log=print)
    watch.check()                                # raises ClusterLost if one has died
    watch.stop()

Without these checks, Ray ends this process 13 to 60 s after one of the two has died, without a message about the runs.
A thread checks once a second. After a death, the caller's next `check` raises. If the main thread is busy and does not
call `check` within `_NOTICE_S`, the thread logs the line and sends this process SIGTERM, which unwinds it. If the main
thread hangs in a call to Ray, the process is ended, as Ray would end it.

Does not cover: other machines of a cluster (`nodes`), workers that die (`pool`).
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from ray._private import worker as ray_worker

from ray_unlearn.errors import ClusterLost
from ray_unlearn.interrupts import RESUMABLE

_EVERY_S = 1.0
_NOTICE_S = 3.0
"""Seconds that the main thread has to notice a death."""
_UNWIND_S = 5.0
"""Seconds that the main thread has to unwind after SIGTERM."""
_GCS_S = 30.0
"""Seconds that the GCS of an existing cluster may be unreachable: a GCS with a database is restarted."""


class RayWatch:
    """A thread that checks the raylet and the GCS."""

    def __init__(self, *, local: bool, log: Callable[[str], None]) -> None:
        """Start the thread.

        Args:
            local: whether this process started the cluster, so that Ray's processes are its children.
            log: called with one line, from the thread, if the main thread does not notice.

        """
        self._node: Any = ray_worker._global_node
        self._local, self._log = local, log
        self._lost, self._gcs_seen_at = "", time.monotonic()
        self._noticed, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="ray-watch", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether Ray has died."""
        return bool(self._lost)

    def check(self) -> None:
        """Do nothing while Ray lives.

        Raises:
            ClusterLost: Ray's raylet or its GCS has died.

        """
        self._lost = self._lost or self._dead_child() or self._dead_raylet()
        if self._lost:
            self._noticed.set()
            raise ClusterLost(f"Ray is gone: {self._lost}; {RESUMABLE}")

    def stop(self) -> None:
        """Stop the thread."""
        self._over.set()

    def _work(self) -> None:
        while not self._over.wait(_EVERY_S):
            self._lost = self._lost or self._dead_child() or self._dead_raylet() or self._dead_gcs()
            if self._lost:
                self._press()
                return

    def _press(self) -> None:
        """Interrupt the main thread; end the process if the main thread does not unwind."""
        if self._noticed.wait(_NOTICE_S) or self._over.is_set():
            return
        self._log(f"Ray is gone: {self._lost}; {RESUMABLE}")
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._over.wait(_UNWIND_S):
            os._exit(128 + signal.SIGTERM)

    def _dead_child(self) -> str:
        """Return a description of a dead process of the local cluster; empty if all live."""
        if not self._local or self._node is None:
            return ""
        dead = {str(kind): process for kind, process in self._node.dead_processes()}
        for kind, name in (("gcs_server", "GCS"), ("raylet", "raylet")):
            if kind in dead:
                return f"its {name} (pid {dead[kind].pid}) has died"
        return ""

    def _dead_raylet(self) -> str:
        """Return that this machine's raylet has died, if its socket refuses connections; else empty."""
        path = str(self._node.raylet_socket_name) if self._node else ""
        if not path.startswith("/"):  # on Windows, no path
            return ""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_EVERY_S)
            try:
                client.connect(path)
            except (ConnectionRefusedError, FileNotFoundError):
                return "its raylet on this machine has died"
            except OSError:  # busy
                return ""
        return ""

    def _dead_gcs(self) -> str:
        """Return that the GCS does not answer, if its port has refused connections for some time; else empty."""
        host, _, port = str(self._node.gcs_address if self._node else "").rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=_EVERY_S):
                self._gcs_seen_at = time.monotonic()
        except TimeoutError:  # the GCS is busy, or the network drops packets: Ray's own timeout applies
            self._gcs_seen_at = time.monotonic()
        except (OSError, ValueError):
            if time.monotonic() - self._gcs_seen_at > _GCS_S:
                return f"its GCS at {host}:{port} has not answered for {_GCS_S:.0f} s"
        return ""
