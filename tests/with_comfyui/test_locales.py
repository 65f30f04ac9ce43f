"""Translations of the nodes: every text of every node, in the shape that the page reads."""

import json
import re

import pytest

from checkout import ROOT

LANGUAGES = ["ja", "zh"]
SCRIPT = {"ja": r"[\u3040-\u30ff]", "zh": r"[\u4e00-\u9fff]"}
"""Letters that a sentence of this language has."""
LITERAL = r"[\w.-]+(?:[/_][\w.-]*\w)+|\w+\.\w+(?:\.\w+)+|NAME\.\w+"
"""Paths, names of files and of blocks."""


@pytest.fixture(params=LANGUAGES)
def language(request) -> str:
    return request.param


@pytest.fixture
def translated(language) -> dict:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def english(comfyui, pack) -> dict[str, dict]:
    """What ComfyUI tells the page about every node of the pack."""
    classes = comfyui.nodes.NODE_CLASS_MAPPINGS
    return {name: node.GET_NODE_INFO_V1() for name, node in classes.items() if name.startswith("SAEEraser_")}


def inputs_of(node: dict) -> dict[str, tuple[str, list]]:
    """Tooltip and options of every input, by the page's key; what a choice brings along is "sae_concept"."""
    found = {}

    def add(spec: dict, prefix: str) -> None:
        for name, (kind, settings) in [*spec.get("required", {}).items(), *spec.get("optional", {}).items()]:
            options = settings.get("options") or (kind if isinstance(kind, list) else [])
            nested = [option for option in options if isinstance(option, dict)]
            choices = [option for option in options if isinstance(option, str)]
            found[prefix + name] = (settings.get("tooltip") or "", choices)
            for option in nested:
                add(option["inputs"], f"{prefix}{name}_")

    add(node["input"], "")
    return found


def test_all_languages_are_tested():
    assert sorted(path.name for path in (ROOT / "locales").iterdir()) == LANGUAGES


def test_every_node_input_and_output_is_translated_and_nothing_else(english, translated):
    assert len(english) > 10
    assert list(translated) == list(english)
    for name, node in english.items():
        entry = translated[name]
        assert list(entry) == ["display_name", "description", "inputs", "outputs"]
        assert list(entry["inputs"]) == list(inputs_of(node)), name
        for text in entry["inputs"].values():
            assert list(text) == ["name", "tooltip"], name
        # The page takes the name of a nameless output from its own table of types.
        named = [output != kind for output, kind in zip(node["output_name"], node["output"], strict=True)]
        expected = {str(i): ["name", "tooltip"] if is_named else ["tooltip"] for i, is_named in enumerate(named)}
        assert {index: list(text) for index, text in entry["outputs"].items()} == expected, name


def test_sentences_are_in_the_language(language, translated):
    for name, entry in translated.items():
        texts = [*entry["inputs"].values(), *entry["outputs"].values()]
        for sentence in [entry["description"], *(text["tooltip"] for text in texts)]:
            assert re.search(SCRIPT[language], sentence), (name, sentence)


def test_paths_names_and_options_are_as_in_english(english, translated):
    for name, node in english.items():
        for key, (tooltip, options) in inputs_of(node).items():
            literals = set(re.findall(LITERAL, tooltip))
            literals |= {option for option in options if re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", tooltip)}
            missing = {word for word in literals if word not in translated[name]["inputs"][key]["tooltip"]}
            assert not missing, (name, key)


def test_the_page_reads_names_and_descriptions_as_they_are(translated):
    # It looks for variables, plurals and links in these, but not in tooltips.
    for name, entry in translated.items():
        texts = [*entry["inputs"].values(), *entry["outputs"].values()]
        for text in [entry["display_name"], entry["description"], *(text.get("name", "") for text in texts)]:
            assert not re.search(r"[{}@|]", text), (name, text)


def test_nodes_are_told_apart_by_their_names(translated):
    names = [entry["display_name"] for entry in translated.values()]
    assert len(set(names)) == len(names)


def test_sentences_call_nodes_by_their_translated_names(english, translated):
    for name, entry in translated.items():
        for own in english.values():
            assert own["display_name"] not in json.dumps(entry, ensure_ascii=False), (name, own["display_name"])
