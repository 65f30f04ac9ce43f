"""The nodes that look, through ComfyUI's executor with its cache."""

import re

from live_server.history import messages

WATCH, SAMPLER, SCORE, HEATMAP, GUARD = "4", "8", "10", "11", "12"


def graph(concept: str, seed: int = 7, action: str = "black") -> dict:
    """A workflow in the API's format: a watched star, scored, mapped and guarded against `concept`."""
    look = {"watch": [WATCH, 1], "latent": [SAMPLER, 0]}
    nodes = {
        "1": ("CheckpointLoaderSimple", {"ckpt_name": "shapecanvas.safetensors"}),
        "2": ("SAEEraser_LoadSAE", {"sae_name": "sae_shapecanvas_objects.safetensors"}),
        WATCH: ("SAEEraser_WatchConcepts", {"model": ["1", 0], "sae": ["2", 0]}),
        "5": ("CLIPTextEncode", {"clip": ["1", 1], "text": "a star in neon style"}),
        "6": ("CLIPTextEncode", {"clip": ["1", 1], "text": ""}),
        "7": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        SAMPLER: (
            "KSampler",
            {
                "model": [WATCH, 0],
                "positive": ["5", 0],
                "negative": ["6", 0],
                "latent_image": ["7", 0],
                "seed": seed,
                "steps": 20,
                "cfg": 3.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        ),
        "9": ("VAEDecode", {"samples": [SAMPLER, 0], "vae": ["1", 2]}),
        SCORE: ("SAEEraser_ConceptScore", {**look, "concept": concept, "threshold": 0.25}),
        HEATMAP: ("SAEEraser_ConceptHeatmap", {**look, "image": ["9", 0], "concept": concept}),
        GUARD: (
            "SAEEraser_ConceptGuard",
            {**look, "image": ["9", 0], "concepts": concept, "threshold": 0.25, "action": action},
        ),
        "13": ("PreviewImage", {"images": [HEATMAP, 0]}),
        "14": ("PreviewImage", {"images": [HEATMAP, 2]}),
        "15": ("PreviewImage", {"images": [GUARD, 0]}),
        "16": ("SAEEraser_SAEInfo", {"sae_name": "sae_shapecanvas_objects.safetensors"}),
    }
    return {number: {"class_type": name, "inputs": inputs} for number, (name, inputs) in nodes.items()}


def text_of(entry: dict, node: str) -> str:
    return entry["outputs"][node]["text"][0]


def test_looking_again_samples_no_more_and_another_seed_is_another_run(run):
    first = run(graph("star"))
    assert first["status"]["status_str"] == "success", first["status"]
    best = text_of(first, SCORE).splitlines()[0]
    assert "object: star  met" in best
    assert first["outputs"][GUARD]["withheld"] == [True]
    assert re.fullmatch(r"withheld, 1 of 1: star \d\.\d\d", text_of(first, GUARD))
    assert all(len(first["outputs"][node]["images"]) == 1 for node in ("13", "14", "15"))
    assert "object: star" in text_of(first, "16")

    again = run(graph("ring"))
    assert again["status"]["status_str"] == "success", again["status"]
    (cached,) = messages(again, "execution_cached")
    assert {WATCH, SAMPLER} <= set(cached["nodes"]) and not {SCORE, HEATMAP, GUARD} & set(cached["nodes"])
    assert text_of(again, SCORE) == text_of(first, SCORE)

    other = run(graph("star", seed=8))
    assert other["status"]["status_str"] == "success", other["status"]
    (cached,) = messages(other, "execution_cached")
    assert WATCH in cached["nodes"] and SAMPLER not in cached["nodes"]
    assert text_of(other, SCORE) != text_of(first, SCORE)


def test_a_guard_that_stops_ends_the_run_with_its_reason(run):
    entry = run(graph("star", action="stop"))
    assert entry["status"]["status_str"] == "error"
    (error,) = messages(entry, "execution_error")
    assert error["node_id"] == GUARD and "It met: star" in error["exception_message"]
    assert "15" not in entry["outputs"]
