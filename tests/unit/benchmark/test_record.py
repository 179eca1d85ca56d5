"""The record's file: a frozen schema, and one sentence for whatever is no record."""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import pytest
from fast_sprites.nodes.benchmark.bench import record as module
from fast_sprites.nodes.benchmark.bench.record import Record, RecordError, read_record

SCHEMA_FILE = Path(__file__).with_name("record_schema.json")


def schema_of(kind: Any) -> Any:
    """The fields of a dataclass and of those inside it."""
    hints = typing.get_type_hints(kind)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        inner = [part for part in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(part)]
        name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
        fields[field.name] = schema_of(inner[0]) if inner else name
    return fields


def test_the_schema_is_frozen():
    """A change of the record is a new VERSION: readers of the old one must be able to tell."""
    frozen = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    assert {"schema": module.SCHEMA, "version": module.VERSION, "fields": schema_of(Record)} == frozen


def test_a_record_comes_back_as_it_was(full_record: Record, tmp_path: Path):
    path = tmp_path / "folder" / "record.json"
    full_record.write(path)
    assert read_record(path) == full_record
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_the_full_record_leaves_no_field_empty(full_record: Record):
    """Else the test above would not see a field that is lost on the way."""
    sides = [side for scenario in full_record.scenarios for side in scenario.sides]
    parts = [
        full_record,
        *full_record.scenarios,
        sides[1],
        sides[1].runs[0],
        sides[1].memory,
        sides[1].fidelity,
        sides[1].runs[0].device,
    ]
    for part in parts:
        assert dataclasses.is_dataclass(part)
        for field in dataclasses.fields(part):
            assert getattr(part, field.name) not in (None, "", [], {}), field.name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: content.update(schema="another"), "is no benchmark record"),
        (lambda content: content.update(version=99), "has schema version 99; this command reads version 1"),
        (lambda content: content.pop("machine"), "is damaged: .*machine"),
        (lambda content: content["scenarios"][0]["sides"][0]["runs"][0].pop("server_s"), "is damaged: .*server_s"),
        (lambda content: content["scenarios"][0].update(surprise=1), "is damaged: .*surprise"),
    ],
)
def test_other_files_get_one_sentence(full_record: Record, tmp_path: Path, change: Any, says: str):
    content = json.loads(full_record.to_json())
    change(content)
    path = tmp_path / "record.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=says) as refused:
        read_record(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("text", "says"), [(None, "cannot be read"), ("{", "is no JSON"), ("[]", "is no benchmark record")])
def test_what_is_no_json_gets_one_sentence(tmp_path: Path, text: str | None, says: str):
    path = tmp_path / "record.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecordError, match=says):
        read_record(path)
