from overlay.identity import Identity
from overlay.names import ServiceName
from overlay.revision import Revision, SignedRevision
from overlay.spec import ServiceSpec
from registry.showing import as_table, as_text

OWNER = Identity.generate()


def shown(process: str) -> str:
    spec = ServiceSpec(process=process)
    revision = Revision(name=ServiceName("hello"), number=1, spec=spec)
    signed = SignedRevision.sign(OWNER, revision)
    return as_table([signed]) + as_text(signed)


def test_what_runs_nothing_is_shown_too() -> None:
    assert "hello" in shown("")


def test_nobody_steers_the_terminal_of_who_looks() -> None:
    text = shown("echo \x1b]0;mine\x07")
    assert "\x1b" not in text
    assert "echo \\x1b]0;mine\\x07" in text
