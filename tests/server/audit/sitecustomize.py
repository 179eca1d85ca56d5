"""Put on PYTHONPATH by the tests: notes in the file named by AUDIT_LOG what this Python process does beyond computing."""

import json
import os
import sys

CONNECTED = ("socket.connect", "socket.sendto", "socket.sendmsg")  # their arguments: socket, address
LOOKED_UP = ("socket.getaddrinfo", "socket.gethostbyname")
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile")
CODE = ("exec", "compile", "pickle.find_class", "marshal.loads")
PACK = os.sep + os.path.join("custom_nodes", "fast-sprites") + os.sep
IMPORT = "<frozen importlib"
LOG = open(os.environ["AUDIT_LOG"], "a", encoding="utf-8")  # noqa: SIM115


def note(event: str, arguments: tuple) -> None:
    """Write one line: what, with what, and whether the pack's code did it; code that Python itself runs, as in imports, is left out.

    What another package does when the pack imports it is that package's doing: importing torch 2.14 starts ldconfig.
    """
    if event not in CONNECTED + LOOKED_UP + PROGRAMS + CODE:
        return
    frame = sys._getframe().f_back  # None where Python starts the script itself
    is_ours = frame is not None and PACK in frame.f_code.co_filename
    if event in CODE and not is_ours:
        return
    while frame is not None and not is_ours and not frame.f_code.co_filename.startswith(IMPORT):
        frame = frame.f_back
        is_ours = frame is not None and PACK in frame.f_code.co_filename
    write(event, arguments[1 if event in CONNECTED else 0], is_ours)


def write(event: str, subject: object, is_ours: bool) -> None:
    """One line, on disk at once: the process may be killed."""
    told = subject if isinstance(subject, list | tuple) else str(subject)
    LOG.write(json.dumps({"event": event, "subject": told, "ours": is_ours}, default=str) + "\n")
    LOG.flush()


sys.addaudithook(note)
write("started", sys.orig_argv, is_ours=False)
