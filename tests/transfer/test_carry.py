"""Adapters carried to a target whose states are a known linear image of the source's: the known change is found again.

N tokens, A and B widths of source and target (32 and 48), L layers of the target.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import layer_norm

from polygraft.models.bottleneck import Adapter
from polygraft.settings import Bottleneck
from polygraft.transfer import carry_bottleneck, carry_lora
from polygraft.transfer.bottleneck import source_layers
from polygraft.transfer.calibration import Calibration, Linear, Shuffled, Site
from polygraft.transfer.carry_lora import Change
from polygraft.transfer.controls import cycle

A, B, TOKENS, SIZE = 32, 48, 2000, 6


class Image(Calibration):
    """States by site instead of encoders; a document is an array of token numbers."""

    def __init__(self, at, target=None):
        rows = torch.arange(TOKENS)
        source = SimpleNamespace(config=SimpleNamespace(hidden_size=A))
        super().__init__(source, target, [rows[:900], rows[900:1800]], [rows[1800:]])
        self.at = at

    def stream(self, documents, sites):
        generator = torch.Generator().manual_seed(self.seed)
        for rows in documents:
            other = rows[cycle(len(rows), generator)]
            yield {
                site: self.at[site.place][other] if isinstance(site, Shuffled) else self.at[site][rows]
                for site in sites
            }


def random_adapter(generator, scale=0.5):
    adapter = Adapter(A, Bottleneck(bottleneck_size=SIZE, non_linearity="gelu"))
    for parameter in adapter.parameters():
        parameter.data.normal_(std=scale, generator=generator)
    return adapter


def isometry(rows, columns, generator):
    """[rows, columns], which keeps rows of mean 0 and variance 1 such; they lose nothing but the direction of ones."""
    bases = []
    for width in (rows, columns):
        square = torch.randn(width, width, generator=generator, dtype=torch.float64)
        square[:, 0] = 1.0
        bases.append(torch.linalg.qr(square).Q[:, 1:])
    small = min(rows, columns) - 1
    return (bases[0][:, :small] @ bases[1][:, :small].T) * (columns / rows) ** 0.5


@pytest.fixture
def exact():
    """Make a target of `layers` layers behind a source of `deepest`: normalized states are isometric images."""

    def _exact(groups, noise=0.0):
        generator = torch.Generator().manual_seed(4)
        deepest = max(k for sources in groups.values() for k in sources)
        first_NA = layer_norm(torch.randn(TOKENS, A, generator=generator, dtype=torch.float64), (A,), eps=0.0)
        turns = [isometry(A, A, generator) for _ in range(deepest)]
        images = {layer: isometry(A, B, generator) for layer in groups}
        at, norms = {}, []
        for k, turn in enumerate(turns, start=1):
            at[Site("source", k)] = (first_NA @ turn).float()
        for layer in range(max(groups) + 1):
            norm = torch.nn.LayerNorm(B)
            norm.weight.data.uniform_(0.5, 2.0, generator=generator)
            norm.bias.data.normal_(generator=generator)
            norms.append(norm)
            if layer in groups:
                z_NB = first_NA @ images[layer] + noise * torch.randn(TOKENS, B, generator=generator)
                scale_N1 = torch.empty(TOKENS, 1).uniform_(0.5, 20.0, generator=generator)  # any, for every token
                raw_NB = (3.0 + scale_N1 * z_NB).float()
                at[Site("target", layer, normed=False)] = raw_NB
                at[Site("target", layer)] = norm(raw_NB).detach()
        target = SimpleNamespace(
            layer_norm=norms[-1], layers=[SimpleNamespace(self_attn_layer_norm=n) for n in norms[:-1]]
        )
        adapters = [random_adapter(generator) for _ in range(deepest)]
        changes = {
            layer: sum(adapters[k - 1].change(at[Site("source", k)]).detach().double() @ turns[k - 1].T @ images[layer]
                       for k in sources)
            for layer, sources in groups.items()
        }  # fmt: skip
        gains = [norm.weight.detach() for norm in norms]
        return SimpleNamespace(calibration=Image(at, target), adapters=adapters, changes=changes, at=at, gains=gains)

    return _exact


def relative_error(case, layer, adapted_NB):
    """Of what the next layer reads, to what it would read of the true change; relative to the effect of that change."""
    z_NB = layer_norm(case.at[Site("target", layer, normed=False)].double(), (B,))
    wanted = layer_norm(z_NB + case.changes[layer], (B,))
    return float((layer_norm(adapted_NB.double(), (B,)) - wanted).norm() / (wanted - z_NB).norm())


GROUPS = {"same depth": {1: [1], 2: [2]}, "deeper source": {1: [1, 2], 2: [3, 4]}, "deeper target": {2: [1], 4: [2]}}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@torch.no_grad()
def test_the_known_change_is_found_again(exact, groups):
    case = exact(groups)
    carried, figures = carry_bottleneck.carry(case.calibration, {"mlm": case.adapters}, groups, 0.0)
    assert carried["mlm"].keys() == groups.keys()
    for layer, sources in groups.items():
        adapter = carried["mlm"][layer]
        assert adapter.down.weight.shape == (SIZE * len(sources), B)
        residual_NB = case.at[Site("target", layer, normed=False)]
        assert relative_error(case, layer, adapter(residual_NB)) < 1e-4  # measured: 3e-6
        assert relative_error(case, layer, residual_NB) == pytest.approx(1.0)
        assert figures[f"rho.mlm.{layer}"] == pytest.approx(1.0, abs=1e-4)
        assert figures[f"change_heldout_r2.mlm.{layer}"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@torch.no_grad()
def test_the_error_follows_the_noise(exact, groups):
    errors = []
    for noise in (0.01, 0.03, 0.1):
        case = exact(groups, noise)
        carried, _ = carry_bottleneck.carry(case.calibration, {"mlm": case.adapters}, groups, 0.0)
        layers = {layer: case.at[Site("target", layer, normed=False)] for layer in groups}
        errors.append(max(relative_error(case, layer, carried["mlm"][layer](raw)) for layer, raw in layers.items()))
    assert all(0.5 * noise < error < 3 * noise for noise, error in zip((0.01, 0.03, 0.1), errors, strict=True)), errors


@torch.no_grad()
def test_where_the_layer_norm_stands_matters(exact):
    """The same maps without the correction: one factor per layer cannot replace every token's own."""
    groups = {1: [1], 2: [2]}
    case = exact(groups)
    carried, _ = carry_bottleneck.carry(case.calibration, {"mlm": case.adapters}, groups, 0.0)
    for layer in groups:
        raw_NB = case.at[Site("target", layer, normed=False)]
        adapter = carried["mlm"][layer]
        delta_NB, deviation_N1 = adapter.change(layer_norm(raw_NB, (B,))), raw_NB.std(-1, keepdim=True)
        errors = {
            "right": relative_error(case, layer, adapter(raw_NB)),
            "scaled by the layer's mean": relative_error(case, layer, raw_NB + deviation_N1.mean() * delta_NB),
            "unscaled": relative_error(case, layer, raw_NB + delta_NB),
            "fitted to the residual": relative_error(case, layer, raw_NB + on_the_residual(case, layer)),
        }
        # measured, in layer 1: 2e-6, 0.24, 0.78, 0.38
        assert errors.pop("right") < 1e-4 and min(errors.values()) > 0.2, errors


def on_the_residual(case, layer):
    """What maps to and from the residual itself make of the adapter."""
    source, target = Site("source", layer), Site("target", layer, normed=False)
    fitted = case.calibration.fit([(target, source), (source, target)], 0.0)
    back, forth = fitted[target, source].map, fitted[source, target].map
    return case.adapters[layer - 1].change(back(case.at[target]).float()).double() @ forth.weight


@torch.no_grad()
def test_rho_makes_up_for_a_factor(exact):
    """Half the pre-activations are lost to a heavy ridge: the factor that fits best is the least-squares one."""
    groups = {1: [1], 2: [2]}
    case = exact(groups, noise=0.3)
    carried, figures = carry_bottleneck.carry(case.calibration, {"mlm": case.adapters}, groups, 1.0)
    rows = torch.arange(1800)
    for layer in groups:
        pair = Site("source", layer), Site("target", layer)
        p = case.calibration.fit([pair], 1.0)[pair].map.weight / case.gains[layer]
        wanted = case.adapters[layer - 1].change(case.at[Site("source", layer)]).double() @ p
        own = carried["mlm"][layer].change(layer_norm(case.at[Site("target", layer, normed=False)], (B,))).double()
        factor = torch.linalg.lstsq(own[rows].reshape(-1, 1), wanted[rows].reshape(-1, 1)).solution
        assert float(factor) == pytest.approx(1.0, abs=1e-4)  # none is left to be found
        assert figures[f"rho.mlm.{layer}"] != pytest.approx(1.0, abs=0.05)
        held_out = torch.arange(1800, TOKENS)
        share = 1 - (wanted - own)[held_out].square().sum() / wanted[held_out].square().sum()
        assert figures[f"change_heldout_r2.mlm.{layer}"] == pytest.approx(float(share), abs=1e-4)


@pytest.mark.parametrize(("phi", "deepest", "expected"), [
    ([0, 1, 2, 3], 3, {1: [1], 2: [2], 3: [3]}),
    ([0, 2, 4], 4, {1: [1, 2], 2: [3, 4]}),
    ([0, 1, 1, 2], 2, {1: [1], 3: [2]}),
    ([0, 2, 2, 3], 5, {1: [1, 2], 3: [3, 4, 5]}),
    ([0, 3, 3], 3, {1: [1, 2, 3]}),
])  # fmt: skip
def test_every_source_layer_goes_to_one_target_layer(phi, deepest, expected):
    assert source_layers(phi, deepest) == expected


@pytest.fixture
def linear():
    """Linear layers whose inputs and outputs in the target are affine images of, and to, the source's."""
    generator = torch.Generator().manual_seed(9)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    at, truth, changes = {}, {}, []
    wide = {"intermediate.dense": (A, 2 * A, B, 2 * B), "output.dense": (2 * A, A, 2 * B, B)}
    homes = {1: [1, 2], 2: [3, 4]}
    for layer, sources in homes.items():
        for k in sources:
            for module, counterpart in carry_lora.LINEAR.items():
                a_in, a_out, b_in, b_out = wide.get(module, (A, A, B, B))
                place, home = f"encoder.layer.{k - 1}.{module}", f"layers.{layer - 1}.{counterpart}"
                read, home_read = place, home
                if module in carry_lora.SHARED_INPUT:
                    read, home_read = (name.replace("key", "query").replace("value", "query") for name in (place, home))
                    home_read = f"layers.{layer - 1}.self_attn.q_proj"
                x_b = at.setdefault(Linear("target", home_read, "input"), normal(TOKENS, b_in))
                x_a = at.setdefault(Linear("source", read, "input"), x_b @ normal(b_in, a_in) + normal(a_in))
                y_a = at.setdefault(Linear("source", place, "output"), normal(TOKENS, a_out))
                forth = normal(a_out, b_out)
                change = Change(k, module, normal(3, a_in).float(), normal(a_out, 3).float())
                # several source layers, one target layer: its output can be the image of one of them only
                at[Linear("target", home, "output")] = y_a @ forth + normal(b_out)
                if k == sources[-1]:
                    changes.append(change)
                    truth[home] = (x_b, (x_a @ change.down.double().T) @ change.up.double().T @ forth)
    calibration = Image(at, SimpleNamespace(config=SimpleNamespace(hidden_size=B)))
    return SimpleNamespace(calibration=calibration, changes=changes, truth=truth, homes=homes)


def cosine(x, y):
    return float((x * y).sum() / (x.norm() * y.norm()))


FITTED, HELD_OUT = slice(0, 1800), slice(1800, TOKENS)


@pytest.mark.parametrize("control", ["random", "permuted"])
@torch.no_grad()
def test_a_placebo_changes_states_by_as_much_and_elsewhere(exact, control):
    groups = {1: [1, 2], 2: [3]}
    case = exact(groups, noise=0.1)
    real, _ = carry_bottleneck.carry(case.calibration, {"mlm": case.adapters}, groups, 0.01)
    placebo, figures = carry_bottleneck.carry(case.calibration, {"mlm": case.adapters}, groups, 0.01, control)
    for layer in groups:
        z_NB = layer_norm(case.at[Site("target", layer, normed=False)], (B,))
        wanted, made = (adapters["mlm"][layer].change(z_NB) for adapters in (real, placebo))
        assert float(made[FITTED].norm() / wanted[FITTED].norm()) == pytest.approx(1.0, abs=1e-5)  # measured 8e-7
        assert float(made[HELD_OUT].norm() / wanted[HELD_OUT].norm()) == pytest.approx(
            1.0, abs=0.05
        )  # measured 0.961 to 1.027
        assert abs(cosine(made[HELD_OUT], wanted[HELD_OUT])) < 0.2  # measured at most 0.08
        for key in ("weight", "bias"):
            mine, theirs = (getattr(adapters["mlm"][layer].down, key) for adapters in (placebo, real))
            assert float(mine.norm()) == pytest.approx(float(theirs.norm()), rel=1e-5)
        assert figures[f"change_heldout_r2.mlm.{layer}"] < 0.0
        for way in ("input_map", "output_map"):
            r2 = figures[f"{way}_heldout_r2.{layer}"]
            assert r2 > 0.9 if control == "random" else abs(r2) < 0.05  # measured 0.99, -0.03


@pytest.mark.parametrize("control", ["random", "permuted"])
def test_a_low_rank_placebo_changes_outputs_by_as_much_and_elsewhere(linear, control):
    real, _ = carry_lora.carry(linear.calibration, linear.changes, linear.homes, 0.01)
    placebo, figures = carry_lora.carry(linear.calibration, linear.changes, linear.homes, 0.01, control)
    assert placebo.keys() == real.keys()
    for name, (x_b, _) in linear.truth.items():
        wanted, made = (x_b @ value[f"{name}.weight"].T + value[f"{name}.bias"] for value in (real, placebo))
        assert float(made[FITTED].norm() / wanted[FITTED].norm()) == pytest.approx(1.0, abs=1e-6)  # measured 2e-15
        assert float(made[HELD_OUT].norm() / wanted[HELD_OUT].norm()) == pytest.approx(
            1.0, abs=0.2
        )  # measured 0.94 to 1.08
        assert abs(cosine(made[HELD_OUT], wanted[HELD_OUT])) < 0.2  # measured at most 0.05
        assert torch.linalg.matrix_rank(placebo[f"{name}.weight"]) == 3
    for way in ("input_map", "output_map"):
        assert figures[f"{way}_heldout_r2"] > 0.9 if control == "random" else abs(figures[f"{way}_heldout_r2"]) < 0.1


@pytest.mark.parametrize("control", ["random", "permuted"])
@torch.no_grad()
def test_placebos_follow_from_the_seed(exact, linear, control):
    def drawn(seed):
        case = exact({1: [1]}, noise=0.1)
        case.calibration.seed = linear.calibration.seed = seed
        adapters, _ = carry_bottleneck.carry(case.calibration, {"mlm": case.adapters}, {1: [1]}, 0.01, control)
        additions, _ = carry_lora.carry(linear.calibration, linear.changes[:1], {1: [1, 2]}, 0.01, control)
        return [*adapters["mlm"][1].parameters(), *additions.values()]

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(first, other, strict=True))


def test_an_untrained_adapter_has_a_placebo_that_changes_nothing(exact):
    case = exact({1: [1]}, noise=0.1)
    case.adapters[0].up.weight.data.zero_()
    for control in ("random", "permuted"):
        carried, _ = carry_bottleneck.carry(case.calibration, {"mlm": case.adapters}, {1: [1]}, 0.01, control)
        assert not carried["mlm"][1].up.weight.any()


@pytest.mark.parametrize("held", [2**31, 1])  # in one pass, or each layer in one of its own
def test_low_rank_changes_are_found_again(linear, held, monkeypatch):
    monkeypatch.setattr(carry_lora, "MOMENT_BYTES", held)
    additions, figures = carry_lora.carry(linear.calibration, linear.changes, linear.homes, 0.0)
    assert {name.rpartition(".")[0] for name in additions} == set(linear.truth)
    for name, (x_b, wanted) in linear.truth.items():
        made = x_b @ additions[f"{name}.weight"].T + additions[f"{name}.bias"]
        assert float((made - wanted).norm() / wanted.norm()) < 1e-4  # measured: 1e-12
        assert torch.linalg.matrix_rank(additions[f"{name}.weight"]) == 3
    assert figures["input_map_heldout_r2"] == pytest.approx(1.0) == figures["output_map_heldout_r2"]


def test_low_rank_changes_of_several_layers_add_up(linear):
    """Two changes of one layer are one of twice the rank."""
    once, _ = carry_lora.carry(linear.calibration, linear.changes, linear.homes, 0.0)
    twice, _ = carry_lora.carry(linear.calibration, [*linear.changes, *linear.changes], linear.homes, 0.0)
    for name, value in once.items():
        torch.testing.assert_close(twice[name], 2 * value)
