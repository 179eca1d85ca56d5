import pytest
from fast_sprites.nodes.engine.errors import BadInputError
from fast_sprites.nodes.engine.memory.requests import refuse_unknown, switches, whole_number


def test_numbers_within_the_range_pass():
    assert whole_number({"limit": "7"}, "limit", 5, 1, 10) == 7
    assert whole_number({}, "limit", 5, 1, 10) == 5


@pytest.mark.parametrize("text", ["0", "11", "-1", "1.5", "", " 3", "1_0", "٣", "nan", "9" * 400, "../../etc"])
def test_other_values_are_refused(text):
    with pytest.raises(BadInputError, match=r"limit is .* it must be a whole number from 1 to 10\.") as caught:
        whole_number({"limit": text}, "limit", 5, 1, 10)
    assert len(str(caught.value)) < 120


def test_unknown_names_are_refused():
    refuse_unknown({"since": "1"}, ["since"])
    with pytest.raises(BadInputError, match=r"'x+' is not known here; there is since, limit"):
        refuse_unknown({"x" * 4000: "1"}, ["since", "limit"])


def test_switches_take_true_and_false_alone():
    defaults = {"peak": True, "history": False}
    assert switches({}, defaults) == defaults
    assert switches({"history": True}, defaults) == {"peak": True, "history": True}
    for body in ([], None, "x", {"peak": 1}, {"peak": None}, {"other": True}):
        with pytest.raises(BadInputError):
            switches(body, defaults)
