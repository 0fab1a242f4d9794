"""Fusing two models in place: time beside one pass over the parameters, and memory.

    python -m benchmarks.fusion

One pass reads both end states and writes the live weights, tensor by tensor, with the cheapest
operation that does: `torch.add(teacher, student, out=live)`. The plain way copies the model for
each alpha and loads the fused state. The states are random, of the sizes of CLIP ViT-B/16's.
"""

import argparse
import copy
from functools import partial

import open_clip
import torch
from torch import Tensor, nn

from benchmarks.side_by_side import extra_memory, seconds
from fitclip_core.ensembling import AlphaSweep

State = dict[str, Tensor]


def one_pass(live: State, teacher: State, student: State) -> None:
    for name, tensor in live.items():
        torch.add(teacher[name], student[name], out=tensor)


def plain_fusion(model: nn.Module, teacher: State, student: State, alpha: float) -> None:
    fused = copy.deepcopy(model)
    fused.load_state_dict(
        {name: (1 - alpha) * tensor + alpha * student[name] for name, tensor in teacher.items()}
    )


def fuse(model: nn.Module, teacher: State, student: State) -> None:
    with AlphaSweep(model, teacher, student) as sweep:
        for alpha in (0.0, 0.1, 0.4, 1.0):
            sweep.set_alpha(alpha)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-16-quickgelu", help="open_clip's name")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()

    torch.manual_seed(0)
    model = open_clip.create_model(args.model).requires_grad_(False)
    live = model.state_dict()
    teacher = {name: tensor.clone() for name, tensor in live.items()}
    student = {name: torch.rand_like(tensor).add_(tensor) for name, tensor in live.items()}
    size = sum(tensor.nbytes for tensor in live.values())
    grown = extra_memory(partial(fuse, model, teacher, student))
    print(
        f"{torch.get_num_threads()} threads, {args.model}, {len(live)} tensors, {size / 1e6:.0f} "
        f"MB: {grown / 1e6:.1f} MB ({grown / size:.1%}) beyond the two end states and the model"
    )
    sweep = AlphaSweep(model, teacher, student)
    ways = {
        "one pass": partial(one_pass, live, teacher, student),
        "ours": partial(sweep.set_alpha, 0.4),
        "plain": partial(plain_fusion, model, teacher, student, 0.4),
    }
    first = seconds(ways, 1)["ours"].item()  # it looks for values that are not finite once
    taken = seconds(ways, args.rounds)
    for name, value in taken.median().items():
        print(f"{name:>8}  {value * 1000:6.0f} ms")
    print(f"ours, first: {first * 1000:.0f} ms")
    for name in ("ours", "plain"):
        print(f"{name} / one pass: {(taken[name] / taken['one pass']).median():.2f}")


if __name__ == "__main__":
    main()
