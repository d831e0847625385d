"""The request that a service answers, as its function sees it: `request`, as Flask has it."""

import json
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qsl

MAX_FIELDS = 1000
"""Of a query or a form."""


class BadRequest(Exception):
    """The request is not as the service needs it; the text is for who sent it."""


class FieldMissing(BadRequest, KeyError):
    """The request lacks a field that the service asks for."""

    def __str__(self) -> str:
        return str(self.args[0])


class Fields(Mapping[str, Any]):
    """Fields by name: the first value of each; `getlist` returns all."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self._values: dict[str, list[Any]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name][0]
        except KeyError:
            there = ", ".join(self._values) or "none"
            raise FieldMissing(f"the request has no field {name!r}; its fields: {there}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def getlist(self, name: str) -> list[Any]:
        """Return all values of a field, none if it is not there."""
        return list(self._values.get(name, ()))


class Request:
    """One request.

    Attributes:
        method: GET or POST.
        path: below the service's own.
        args: the query's fields.
        headers: by name, in any case.
        data: the body.
        form: the fields of a form, or the members of a JSON object; of a GET, those of its query.
        files: the contents of the files of a multipart form.
        values: `args` and `form`, `args` first.

    Raises:
        BadRequest: the body is not what its Content-Type says.
    """

    def __init__(self, method: str, target: str, headers: Message, data: bytes = b"") -> None:
        self.method, self.data, self.headers = method, data, headers
        self.path, _, query = target.partition("?")
        asked = _pairs(query)
        self.args = Fields(asked)
        said, files = self._body()
        self.form = Fields(said if method == "POST" else asked)
        self.files = Fields(files)
        self.values = Fields([*asked, *said])

    @property
    def json(self) -> Any:
        """What the body says as JSON. Raises BadRequest: it is none."""
        try:
            return json.loads(self.data)
        except (ValueError, RecursionError) as exc:
            raise BadRequest(f"the body is no JSON: {exc}") from exc

    def get_json(self) -> Any:
        """Return `json`."""
        return self.json

    def _body(self) -> tuple[list[tuple[str, Any]], list[tuple[str, bytes]]]:
        kind = self.headers.get_content_type() if "Content-Type" in self.headers else ""
        match kind:
            case "application/json":
                said = self.json
                return list(said.items()) if isinstance(said, dict) else [], []
            case "application/x-www-form-urlencoded":
                return list(_pairs(self.data.decode("utf-8", "replace"))), []
            case "multipart/form-data":
                return self._parts()
            case _:
                return [], []

    def _parts(self) -> tuple[list[tuple[str, Any]], list[tuple[str, bytes]]]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode("latin-1", "replace")
        parsed = BytesParser(policy=HTTP).parsebytes(head + self.data)
        fields: list[tuple[str, Any]] = []
        files: list[tuple[str, bytes]] = []
        for part in parsed.iter_parts() if parsed.is_multipart() else ():
            name = part.get_param("name", header="content-disposition")
            content = part.get_payload(decode=True)
            if not isinstance(name, str) or not isinstance(content, bytes):
                raise BadRequest("the form is malformed")
            if part.get_filename() is None:
                fields.append((name, content.decode("utf-8", "replace")))
            else:
                files.append((name, content))
        return fields, files


def _pairs(text: str) -> list[tuple[str, Any]]:
    try:
        return list(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError as exc:
        raise BadRequest(f"over {MAX_FIELDS} fields") from exc


current: ContextVar[Request] = ContextVar("request")
"""The one that this thread answers."""


class CurrentRequest:
    """Whichever request is answered where it is looked at."""

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(current.get(), name)
        except LookupError:
            raise RuntimeError("there is no request here: `request` is for services") from None


request = CurrentRequest()
"""What is in scope of a service."""
