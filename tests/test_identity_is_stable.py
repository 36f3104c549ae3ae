"""Golden identities: a move of code, another torch or a new setting of another probe must not re-key what users have stored.

Whoever raises a version on purpose adds or changes one line here.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from evar.encoders import list_encoders, load_encoder
from evar.errors import EvarError
from evar.probes import get_protocol
from evar.probes.protocol import list_protocols
from evar.results_identity import IDENTITY, cell_id

ENCODERS = {
    ("ast", 1): "49045b6604faa245fae2cc20d3c3bc1cd80671dcc4b9413836f334bc2663e411",
    ("ast-fusion", 1): "9898c1c3a71fe8c0c105e033c4c2a6fe914f309c5b78df8817a203afd918f739",
    ("byola", 1): "ccd0a310a24676759635d1812cbfc14b37666c1ed97d0ca628b36358e643f50c",
    ("byola-v1-1024", 1): "6543a36a54dd757fc1c43e7d27bdd347995cc172755b1249ad0978282472c9a2",
    ("byola-v1-2048", 1): "50b5abb38c5f7b4d228aa4cd6d18601ff9f96b1ffe7362753d5e631e3763ffd1",
    ("byola-v1-512", 1): "271053c204d5c6f1b3f26d3d25c3e8b3f012d7065b9f0c3bf3a5f6fdbed09859",
    ("byola-v2", 1): "92c1c5929199783d60be1f542af0083d1d50fd5c645b5fb5b157bf914f0b275a",
    ("byola-v2-2048", 1): "4c49412667fc97bfd51e8c07fde0ccc1a4190b58056a3bacde304f700e87a061",
    ("cnn14", 1): "6add7cb2d702ad144dbe70d1b0da93b087a0b4c6dd580618bd86ec79d239c28b",
    ("cnn14-16k", 1): "68148d2151a7ca4fd7046cf95d0cdc63d5d4118f7fc51e3b569d90f9c6570c24",
    ("cnn14-fusion", 1): "933df6fed4060d8a88c9f2ba664a20a916f9e35cabe0b486bb77ec8cae240ac6",
    ("cola", 1): "4e469ac35adc7a65ff87cea2f7d6257e057676d588e22a39e763f4984fda7ce0",
    ("cola-prime-1024", 1): "e1ef8f0a1a70210b523d0e4f17037ce7c7ba46a94f0496eb41af06285b648116",
    ("cola-prime-2048", 1): "232d2dcf4d74dca16a2344aae784926475712e437b009c82a9c29ad2b1c90c35",
    ("cola-prime-512", 1): "b0df018398d6a2c354744b43334ae32b94e547fdd2f748491da39ae6405a630d",
    ("logmel", 1): "b09a070984d586cfa9074c7691b320f07d4c6d4ebef0695c5e6013909964dcdc",
    ("mfcc", 1): "79b4d15823e263cf72c2818eb2d16da8000b52b12198c159bb576a6f6fdc936c",
    ("vggish", 1): "5f811a6c7c2a912f77aab2f37a702297116eabdcb557c4d83d0fb11215465838",
    ("vggish-4k", 1): "3d9d276b6c48d4bb3e3d079d95f551c6c04d68b62b0d4c03a685611545a89ecc",
    ("vggish-fusion", 1): "2710d7e2791ca6260bcbba9d15dcff54331cd069a4215afc00ce700457b56ca5",
    ("vggish-relu", 1): "7b3d656819e200cab0340af15b745e07729c8d23c02788fa4ac13dd97d96cad7",
    ("wav2vec2-c", 1): "2f77e830d29846413804a616600efd647878fa0b3d43de143230e1df51072553",
    ("wav2vec2-c-large", 1): "08842b790ba2fd8a4b9293dc2a9fc9845aa3af484245aebbf221c489b7a19cff",
    ("wav2vec2-f", 1): "38d784bcdae21b9e1c6256110383e23d673afc22076e9bd8edd8d560c63689a7",
    ("wav2vec2-f-large", 1): "e37f016ff2ff895e451bd008a1efd21a6b3579fed63c00438484099e9612f1ad",
}
"""Name and version -> fingerprint: the small form with counted weights (`counted`), or the bundled weights as they are."""

PROTOCOLS = {
    ("fair", 1): "5b89951a5df07f55b81744c69a772e3f43c4b106fea8ba704b0b3e86a84ca6f7",
    ("paper", 1): "2e975c84837bca13bbba7d45b4deb65e4d458e41859d1330c3be970cf4286ccc",
    ("mlp", 1): "91c853a242c0baaabcff3a00e28dfab997a29f0d8f8a4e7ad534997012ba1148",
    ("knn", 1): "6b1bba4720abad0e4f50c72bcbcb9ddbad96872143e15f309eb3be142b12669b",
    ("fair", 2): "654e0b8ed0cd194282177a314cb1f4bbda38b52f143dcb19426d2c8b9a7883bf",
    ("paper", 2): "2ebf1958bc2f31c11b4c9679aa3557e89bc2d7bc21f443dbd73236f951aef20e",
    ("mlp", 2): "49c0beec7710d754626583fd76eb45c9e4b18072075853cfd3cf2349495119b4",
    ("knn", 2): "916919cfe8c0036e8427f2eb98a6ff2c53884706266020e65ed5ce2402f1f5a1",
}
"""Name and version -> fingerprint. Lines of former versions may stay."""

ROW = {
    "encoder": "byola-v2@my",
    "encoder_fingerprint": "e" * 64,
    "clips_fingerprint": "c" * 64,
    "task_fingerprint": "7" * 64,
    "protocol_fingerprint": "f" * 64,
    "learning_rate": None,
    "layers": "fc",
    "pooling": "mean+max",
    "norm": "fold1",
    "duration": "5",
    "precision": "fp32",
    "seeds": "0",
    "train_fraction": None,
    "shots": None,
    "limit": None,
}
CELLS = {
    "": "54f13e5379fe215e",
    "learning_rate": "38833b1f78862552",
    "train_fraction": "8a6303f6e0aef1aa",
    "shots": "eda59009e0d1ce6c",
    "limit": "75d6f4956f9cd616",
}
OTHER = {"learning_rate": 0.001, "train_fraction": 0.1, "shots": 5, "limit": 100}


def counted(encoder: torch.nn.Module) -> torch.nn.Module:
    """Weights that count instead of random ones, of which other processors round the last bit otherwise."""
    for values in encoder.state_dict().values():
        numbers = torch.arange(values.numel(), dtype=torch.float64).reshape(values.shape)
        values.copy_((numbers % 251 - 125) / 256 if values.is_floating_point() else torch.zeros_like(values))
    return encoder


def small(name: str) -> torch.nn.Module:
    entry = list_encoders()[name]
    if entry.extra:
        pytest.importorskip("tensorflow_hub", reason=f"needs evar[{entry.extra}]")
    if entry.weights == "bundled":
        return load_encoder(name)
    return counted(load_encoder(name if entry.weights == "none" else f"random:{name}", **entry.small))


BUILDABLE = [name for name, entry in list_encoders().items() if entry.untrained]


@pytest.mark.parametrize("name", BUILDABLE)
def test_fingerprints_of_shipped_encoders(name):
    encoder = small(name)
    assert ENCODERS.get((name, encoder.version)) == encoder.fingerprint(), "is it meant? Then raise its version"


@pytest.mark.parametrize("name", list_protocols())
def test_fingerprints_of_shipped_protocols(name):
    protocol = get_protocol(name)
    assert PROTOCOLS.get((name, protocol.version)) == protocol.fingerprint(), "is it meant? Then raise its version"


@pytest.mark.parametrize("changed", CELLS)
def test_ids_of_fixed_cells(changed):
    assert cell_id(ROW | ({changed: OTHER[changed]} if changed else {})) == CELLS[changed]


def test_every_column_of_the_identity_moves_the_id():
    others = {column: OTHER.get(column, "other") for column in IDENTITY}
    assert set(ROW) == set(IDENTITY)
    assert len({cell_id(ROW), *(cell_id(ROW | {column: value}) for column, value in others.items())}) == 1 + len(
        IDENTITY
    )
    assert cell_id(ROW | {"shots": 5}) == cell_id(ROW | {"shots": "5", "mean": 0.5}), "text as in the file, and scores"


@pytest.mark.parametrize("name", ["logmel", "byola-v2", "vggish"])
def test_moving_a_file_re_encodes_nothing(name, monkeypatch):
    encoder = small(name)
    before = encoder.fingerprint()
    for layer in encoder.modules():
        for kind in type(layer).__mro__:
            if kind.__module__.startswith("evar."):
                monkeypatch.setattr(kind, "__module__", "evar.somewhere.else_")
    assert encoder.fingerprint() == before


def test_a_layer_of_another_torch_re_encodes_nothing():
    encoder = small("byola-v2")
    before = encoder.fingerprint()
    next(layer for layer in encoder.modules() if isinstance(layer, torch.nn.Conv2d)).invented_by_torch = 1
    encoder.trained_on = ("AudioSet",)
    assert encoder.fingerprint() == before


def test_a_subclass_of_the_user_counts_with_its_source_and_attributes(tmp_path, monkeypatch):
    code = "from evar.encoders.logmel import LogMelStatistics\nclass Mine(LogMelStatistics):\n    gain = {}\n"
    (tmp_path / "mine_a.py").write_text(code.format(1))
    (tmp_path / "mine_b.py").write_text(code.format(1))
    (tmp_path / "mine_c.py").write_text(code.format(2))
    monkeypatch.syspath_prepend(tmp_path)
    found = [load_encoder(f"py:mine_{letter}:Mine") for letter in "abc"]
    changed = load_encoder("py:mine_a:Mine")
    changed.gain = 3
    assert len({one.fingerprint() for one in [*found, changed, load_encoder("logmel")]}) == 5


def test_pca_parameters_of_vggish_count(tmp_path):
    import numpy as np

    prints = set()
    for shift in (0.0, 1.0):
        path = tmp_path / f"{shift}.npz"
        np.savez(path, pca_eigen_vectors=np.eye(128), pca_means=np.full((128, 1), shift))
        options = {**list_encoders()["vggish"].small, "postprocess": "round", "pca_params": str(path)}
        prints.add(counted(load_encoder("random:vggish", **options)).fingerprint())
    assert len(prints) == 2


def test_a_new_setting_of_one_probe_leaves_the_others_alone(monkeypatch):
    from evar.probes import protocol

    @dataclasses.dataclass(frozen=True)
    class Later(protocol.Protocol):
        unheard_of: float = 0.5

    monkeypatch.setitem(protocol._OF_PROBE, "mlp", (*protocol._OF_PROBE["mlp"], "unheard_of"))
    for name, shipped in list_protocols().items():
        later = Later(**dataclasses.asdict(shipped))
        assert (later.fingerprint() == shipped.fingerprint()) == (name != "mlp")


def test_settings_that_a_probe_does_not_use_are_no_part_of_it():
    fair = get_protocol("fair")
    assert dataclasses.replace(fair, hidden=7).fingerprint() == fair.fingerprint()
    assert dataclasses.replace(fair, tolerance=1e-5).fingerprint() != fair.fingerprint()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: fair\nhidden: 7\n", "hidden has no effect on the probe 'logistic': its settings are strengths"),
        (
            "base: paper\nprobe: knn\npatience: 3\n",
            "patience has no effect on the probe 'knn': its settings are neighbours",
        ),
        ("base: paper\nneighbours: [1]\n", "neighbours has no effect on the probe 'linear'"),
    ],
)
def test_a_setting_without_effect_is_refused(tmp_path, text, said):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(EvarError, match=said):
        get_protocol(tmp_path / "mine.yaml")
