"""Labelled prompts, from JSON lines and from CSV."""

import json

import pytest

from sae_eraser.training.cli import main
from sae_eraser.training.prompts import LabelledPrompt, read_prompts

STAR = LabelledPrompt("a star in neon style", {"object": ("star",), "style": ("neon",)})


def test_json_lines():
    assert read_prompts('{"prompt": "a star in neon style", "object": "star", "style": "neon"}') == [STAR]


def test_csv():
    assert read_prompts("prompt,object,style\na star in neon style, star,neon\n") == [STAR]


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "two", "object": ["star", "ring"]}',
        '{"prompt": "two", "object": "star; ring"}',
        "prompt,object\ntwo,star;ring",
    ],
)
def test_a_field_may_hold_several_labels(text):
    assert read_prompts(text) == [LabelledPrompt("two", {"object": ("star", "ring")})]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_csv_may_have_another_separator_as_excel_writes_it(mark):
    lines = ("prompt|object|style", "a star, in neon style|star|neon", 'two|"star;ring"|', "one")
    text = "\n".join(lines).replace("|", mark)
    assert read_prompts(text) == [
        LabelledPrompt("a star, in neon style", {"object": ("star",), "style": ("neon",)}),
        LabelledPrompt("two", {"object": ("star", "ring")}),
        LabelledPrompt("one", {}),
    ]
    with pytest.raises(ValueError, match="Entry 1 .* more fields than the header"):
        read_prompts(f"prompt{mark}object\ntwo{mark}star{mark}ring")


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "plain", "object": "", "style": []}',
        '{"prompt": "plain", "object": null}',
        '{"prompt": "plain"}',
        "prompt,object,style\nplain,,",
        "prompt,object,style\nplain",
        "prompt,object\nplain,;",
        '{"prompt": "plain", "object": [""], "style": " "}',
    ],
)
def test_an_empty_field_is_no_label(text):
    assert [names for names in read_prompts(text)[0].labels.values() if names] == []
    assert read_prompts(text)[0].labels == {}


def test_a_csv_prompt_in_quotes_may_hold_commas():
    expected = [LabelledPrompt("a star, glowing", {"object": ("star",)})]
    assert read_prompts('prompt,object\n"a star, glowing",star') == expected
    assert read_prompts('object, prompt\nstar, "a star, glowing"') == expected


def test_an_empty_prompt_is_a_prompt():
    assert read_prompts('{"prompt": ""}') == [LabelledPrompt("", {})]


def test_blank_lines_are_skipped():
    line = json.dumps({"prompt": "a star in neon style", "object": "star", "style": "neon"})
    assert read_prompts(f"\n{line}\n\n  \r\n{line}\n") == [STAR, STAR]


def test_a_json_string_may_hold_any_separator_of_lines_but_a_line_break():
    entry = {"prompt": "a star\u2028in neon\u0085style", "object": "star"}
    line = json.dumps(entry, ensure_ascii=False)
    for text in (f"{line}\n{line}", f"{line}\r\n{line}", f"{line}\r{line}"):
        assert read_prompts(text) == 2 * [LabelledPrompt(entry["prompt"], {"object": ("star",)})]


def test_a_csv_prompt_in_quotes_may_hold_line_breaks():
    prompts = read_prompts('prompt,object\n"a star\nin\u2028neon",star\na ring,ring')
    assert [prompt.prompt for prompt in prompts] == ["a star\nin\u2028neon", "a ring"]


def test_spaces_around_the_names_of_a_header_do_not_count():
    assert read_prompts("prompt , object , style\na star in neon style,star,neon") == [STAR]


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_no_prompts_at_all_says_what_to_write(text):
    with pytest.raises(ValueError, match="no prompts.*JSON.*CSV"):
        read_prompts(text)


def test_a_broken_json_line_is_named_by_its_number_in_the_text():
    with pytest.raises(ValueError, match="Line 3 .*star"):
        read_prompts('{"prompt": "a"}\n\n{"prompt": "a star"')


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"prompt": "a"}\n["a"]', "Line 2 .*no JSON object"),
        ('{"prompt": "a"}\n{"object": "star"}', "Entry 2 .*'prompt'"),
        ('{"prompt": 3}', "Entry 1 .*'prompt'"),
        ('{"prompt": "a", "object": 3}', "Entry 1 .*'object'.*3"),
        ('{"prompt": "a", "object": ["star", 3]}', "Entry 1 .*'object'"),
        ('{"prompt": "a", "object": {"x": 1}}', "Entry 1 .*'object' must be a name or a list of names, not {'x': 1}"),
        ('{"prompt": "a", "object": [{"x": 1}]}', "Entry 1 .*'object' must be a name .*, not \\[{'x': 1}\\]"),
        ("object,style\nstar,neon", "first line .* must be a header such as prompt,object,style, .*: object,style$"),
        ("just some words", "first line .* must be a header"),
        ("a star\na heart", "first line .* must be a header .*: a star$"),
    ],
)
def test_what_is_no_labelled_prompt_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        read_prompts(text)


def test_a_csv_row_with_more_fields_than_the_header_is_refused():
    """An unquoted comma in a prompt would otherwise shift every label."""
    with pytest.raises(ValueError, match="Entry 1 "):
        read_prompts("prompt,object,style\na star, glowing,star,neon")


@pytest.mark.parametrize(
    "text",
    [
        'prompt,object\na star,star\n\n"a ring,ring\na box,box\n',
        'prompt,object\na star,star\n\n"a ring,ring\n"a box, red",box\n',
    ],
)
def test_a_quote_that_is_not_closed_swallows_no_prompts(text):
    with pytest.raises(ValueError, match='^Line 4 .* must end with one.*: "a ring,ring$'):
        read_prompts(text)


def test_a_name_that_the_header_has_twice_is_refused():
    """Only the labels of one of them would be read."""
    with pytest.raises(ValueError, match="'object' twice. Put several labels .* separated by ';'"):
        read_prompts("prompt,object, object\na star and a ring,star,ring")
    assert read_prompts("prompt,object,,\na star,star,,") == [LabelledPrompt("a star", {"object": ("star",)})]


def test_so_is_one_that_a_json_object_has_twice():
    with pytest.raises(ValueError, match="^Line 2 .* names 'object' twice. Put several labels .* into a list: .*ring"):
        read_prompts('{"prompt": "a box"}\n{"prompt": "a star and a ring", "object": "star", "object": "ring"}')


@pytest.mark.parametrize("command", ["collect", "evaluate", "locate"])
def test_a_file_that_is_not_utf_8_is_named(tmp_path, capsys, command):
    """As Excel saves plain CSV."""
    path = tmp_path / "prompts.csv"
    path.write_bytes("prompt,object\na café,café\n".encode("cp1252"))
    line = [command, "--checkpoint", "c", "--pairs" if command == "locate" else "--prompts", str(path)]
    line += ["--sae", "s", "--classifier", "c", "--out", str(tmp_path)] if command == "evaluate" else []
    assert main([*line, "--server", "http://127.0.0.1:1"]) == 1
    assert f"sae-eraser: {path} is not in UTF-8 (" in capsys.readouterr().err
