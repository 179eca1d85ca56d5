"""Put on PYTHONPATH by the tests: notes in the file named by AUDIT_LOG what this Python process does beyond computing."""

import json
import os
import sys

ADDRESSED = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname")
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile")
CODE = ("exec", "compile", "pickle.find_class", "marshal.loads")
PACK = os.sep + os.path.join("custom_nodes", "fast-sprites") + os.sep
LOG = open(os.environ["AUDIT_LOG"], "a", encoding="utf-8")  # noqa: SIM115


def note(event: str, arguments: tuple) -> None:
    """Write one line: what, with what, and whether the pack's code did it; code that Python itself runs, as in imports, is left out."""
    if event not in ADDRESSED and event not in PROGRAMS and event not in CODE:
        return
    frame = sys._getframe().f_back  # None where Python starts the script itself
    is_ours = frame is not None and PACK in frame.f_code.co_filename
    if event in CODE and not is_ours:
        return
    while frame is not None and not is_ours:
        frame = frame.f_back
        is_ours = frame is not None and PACK in frame.f_code.co_filename
    subject = arguments[1] if event.startswith("socket.") and event[7] in "cs" else arguments[0]
    LOG.write(
        json.dumps(
            {"event": event, "subject": subject if isinstance(subject, list | tuple) else str(subject), "ours": is_ours},
            default=str,
        )
        + "\n"
    )
    LOG.flush()


sys.addaudithook(note)
