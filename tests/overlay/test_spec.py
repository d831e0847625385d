"""What a definition's environment and commands must never be shown in."""

import base64

import pytest
from pydantic import ValidationError

from overlay.identity import Identity
from overlay.names import Digest, ServiceName
from overlay.revision import Revision, SignedRevision
from overlay.spec import Image, ServiceSpec

SECRET = "hush-4711"
IMAGE = Image(reference="hello", config_digest=Digest("sha256:" + "0" * 64))


@pytest.mark.parametrize(
    "fields",
    [
        {"image": IMAGE, "env": {"TOKEN": SECRET}},
        {"image": IMAGE, "command": f"run --token {SECRET}"},
        {"process": f"run --token {SECRET}"},
    ],
    ids=["env", "command", "process"],
)
def test_no_text_made_of_a_definition_shows_its_environment_or_commands(
    fields: dict[str, object],
) -> None:
    spec = ServiceSpec.model_validate(fields)
    revision = Revision(name=ServiceName("hello"), number=1, spec=spec)
    signed = SignedRevision.sign(Identity.generate(), revision)
    for what in (spec, revision, signed, signed.signed):
        for text in (repr(what), str(what)):
            assert SECRET not in text
            assert base64.b64encode(SECRET.encode()).decode()[:8] not in text
            assert repr(signed.signed.payload)[2:40] not in text


@pytest.mark.parametrize("wrong", [{"port": SECRET}, {"env": {SECRET: SECRET}}, {"env": SECRET}])
def test_an_error_about_a_definition_does_not_quote_it(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        ServiceSpec.model_validate({"image": IMAGE, **wrong})
    assert f"={SECRET}" not in str(caught.value)
    assert f"'{SECRET}'" not in str(caught.value)
