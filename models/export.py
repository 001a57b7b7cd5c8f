#!/usr/bin/env python3
"""Makes sample models as a model repository in Triton's layout, with reference answers beside them.

    models/export.py --output DIR [--set demo|paper] [--models a,b] [--slo paper|rule --profile PROFILE_DIR]

The sets:
  demo   lenet (trained on scikit-learn's digits), mobilenet_v2, resnet18, bert_small: for any machine
  paper  the nine of the gpu-let paper: lenet, googlenet, resnet50, ssd (SSDlite on MobileNet-v3), vgg16, mnasnet1_0,
         mobilenet_v2,
         densenet161, bert

Only LeNet is trained; the others have random weights of a fixed seed (nothing is downloaded), with batch norms that
have seen data, so that activations keep sane sizes in half precision too.

DIR/<model>/config.pbtxt, DIR/<model>/1/model.pt
DIR/<model>/reference/batch<N>.txt and .bin files: inputs, and what PyTorch itself answers to them, for N = 1, 3, 8;
  one line a tensor: input|output NAME DATATYPE FILE DIMENSIONS...
DIR/lenet/reference/digits.npz: 360 digits that were not trained on, with their labels
"""

import argparse
import copy
import csv
import os
import sys
import time

import torch
from torch import nn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import nets  # noqa: E402

IMAGE = [("INPUT__0", "FP32", [3, 224, 224])]
TOKENS = [("input_ids", "INT64", [128]), ("attention_mask", "INT64", [128])]
SIZES = (1, 3, 8)  # batches of the references


def vision(name, **more):
    def make():
        import torchvision

        return torchvision.models.__dict__[name](weights=None, **more)

    return make


class SSD(nn.Module):
    """SSDlite's backbone and heads; choosing among the boxes is the client's business."""

    def __init__(self):
        super().__init__()
        from torchvision.models import detection

        model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
        self.backbone, self.head = model.backbone, model.head

    def forward(self, x):
        y = self.head(list(self.backbone(x).values()))
        return y["bbox_regression"], y["cls_logits"]


class Entry:
    def __init__(self, make, inputs, slo, script=False):
        self.make, self.inputs, self.slo, self.script = make, inputs, slo, script


# SLOs in ms: of the paper (an RTX 2080 Ti) in the paper set; for a CPU of a few cores in the demo set.
LENET = [("INPUT__0", "FP32", [1, 28, 28])]
SETS = {
    "demo": {
        "lenet": Entry(None, LENET, 50),
        "mobilenet_v2": Entry(vision("mobilenet_v2"), IMAGE, 500),
        "resnet18": Entry(vision("resnet18"), IMAGE, 600),
        "bert_small": Entry(lambda: nets.Bert(layers=2, hidden=128, heads=2), TOKENS, 300, script=True),
    },
    "paper": {
        "lenet": Entry(None, LENET, 5),
        "googlenet": Entry(vision("googlenet", aux_logits=False, init_weights=False), IMAGE, 66),
        "resnet50": Entry(vision("resnet50"), IMAGE, 108),
        "ssd": Entry(SSD, [("INPUT__0", "FP32", [3, 300, 300])], 202),
        "vgg16": Entry(vision("vgg16"), IMAGE, 142),
        "mnasnet1_0": Entry(vision("mnasnet1_0"), IMAGE, 62),
        "mobilenet_v2": Entry(vision("mobilenet_v2"), IMAGE, 64),
        "densenet161": Entry(vision("densenet161"), IMAGE, 202),
        "bert": Entry(nets.Bert, TOKENS, 22, script=True),
    },
}
MAX_BATCH = {"demo": 8, "paper": 32}
TORCH_DTYPE = {"FP32": torch.float32, "INT64": torch.int64, "UINT8": torch.uint8}
OIP_DTYPE = {v: k for k, v in TORCH_DTYPE.items()}


def inputs_for(entry, batch, seed):
    """Inputs that look like the real thing: noise of unit variance, token ids with some padding at the end."""
    g = torch.Generator().manual_seed(seed)
    ret = []
    for name, dtype, dims in entry.inputs:
        if name == "input_ids":
            t = torch.randint(1000, 30000, [batch] + dims, generator=g)
        elif name == "attention_mask":
            length = torch.randint(dims[0] // 4, dims[0] + 1, [batch, 1], generator=g)
            t = (torch.arange(dims[0]).unsqueeze(0) < length).long()
        elif dtype == "UINT8":
            t = torch.randint(0, 256, [batch] + dims, generator=g)
        else:
            t = torch.randn([batch] + dims, generator=g)
        ret.append(t.to(TORCH_DTYPE[dtype]))
    return ret


def calibrate(model, entry):
    """Lets batch norms see data: with their initial statistics deep random networks overflow or die out."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return
    model.eval()
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # the mean of what was seen
        m.train()
    with torch.no_grad():
        model(*inputs_for(entry, 4, 99))
    model.eval()


def tensors(answer):
    return [answer] if isinstance(answer, torch.Tensor) else list(answer)


def compile_model(model, entry):
    with torch.no_grad():
        if entry.script:
            return torch.jit.script(model)
        return torch.jit.trace(model, tuple(inputs_for(entry, 2, 5)), check_trace=False)


def write_tensor(directory, file, name, tensor):
    tensor = tensor.contiguous()
    with open(os.path.join(directory, file), "wb") as f:
        f.write(tensor.numpy().tobytes())
    return f"{name} {OIP_DTYPE[tensor.dtype]} {file} {' '.join(map(str, tensor.shape))}\n"


def on_device(model, given, args):
    """What PyTorch answers on the device, in the precision and memory format that the server will use there."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # as the server
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[args.precision]
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    there = copy.deepcopy(model).to(args.reference_device, dtype, memory_format=layout)
    moved = [t.to(args.reference_device, dtype if t.is_floating_point() else t.dtype) for t in given]
    return [t.float().cpu() for t in tensors(there(*moved))]


def write_references(directory, model, compiled, entry, output_names, args):
    """Writes the answers of PyTorch itself and checks that the compiled model gives them too."""
    os.makedirs(directory, exist_ok=True)
    for batch in SIZES:
        given = inputs_for(entry, batch, 1000 + batch)
        with torch.no_grad():
            wanted, got = tensors(model(*given)), tensors(compiled(*given))
        for name, w, g in zip(output_names, wanted, got):
            if not torch.isfinite(w).all() or w.abs().max() > 1e4:
                raise SystemExit(f"{directory}: output {name} has values that half precision cannot hold")
            torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5 * max(1.0, w.abs().max().item()))
        if args.reference_device:
            with torch.no_grad():
                wanted = on_device(model, given, args)
        text = ""
        for i, (x, t) in enumerate(zip(entry.inputs, given)):
            text += "input " + write_tensor(directory, f"batch{batch}.in{i}.bin", x[0], t)
        for i, (n, t) in enumerate(zip(output_names, wanted)):
            text += "output " + write_tensor(directory, f"batch{batch}.out{i}.bin", n, t)
        with open(os.path.join(directory, f"batch{batch}.txt"), "w") as f:
            f.write(text)


def config_text(name, entry, outputs, max_batch, slo, parameters):
    def tensor(kind, name, dtype, dims):
        return f'{kind} [\n  {{ name: "{name}" data_type: TYPE_{dtype} dims: [ {", ".join(map(str, dims))} ] }}\n]\n'

    text = f'name: "{name}"\nplatform: "pytorch_libtorch"\nmax_batch_size: {max_batch}\n'
    for n, dtype, dims in entry.inputs:
        text += tensor("input", n, dtype, dims)
    for n, dtype, dims in outputs:
        text += tensor("output", n, dtype, dims)
    text += "dynamic_batching { }\n"
    for key, value in [("slo_ms", f"{slo:g}")] + parameters:
        text += f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
    return text


def rule_slo(latencies, name):
    if name not in latencies:
        raise SystemExit(f"--slo rule: the profile has no latency of {name} at batch 32 on the whole device")
    return round(2 * latencies[name], 1)


def read_rule(profile):
    """Batch 32 on the most granules, p50 in ms, by model."""
    path = os.path.join(profile, "latency.csv") if os.path.isdir(profile) else profile
    best = {}
    with open(path) as f:
        for row in csv.DictReader(f):
            if int(row["batch"]) == 32 and int(row["granules"]) >= best.get(row["model"], (0, 0))[0]:
                best[row["model"]] = (int(row["granules"]), float(row["p50_ms"]))
    return {k: v[1] for k, v in best.items()}


def export(name, entry, args, slo):
    start = time.monotonic()
    directory = os.path.join(args.output, name)
    reference = os.path.join(directory, "reference")
    os.makedirs(os.path.join(directory, "1"), exist_ok=True)
    said = ""
    if entry.make is None:
        import numpy

        model, accuracy, images, labels = nets.train_lenet()
        said = f", test accuracy {100 * accuracy:.2f} %"
        if accuracy < 0.97:
            raise SystemExit(f"lenet: test accuracy {100 * accuracy:.2f} % is below 97 %")
        os.makedirs(reference, exist_ok=True)
        numpy.savez_compressed(os.path.join(reference, "digits.npz"), images=images.numpy(), labels=labels.numpy())
    else:
        torch.manual_seed(sum(name.encode()))
        model = entry.make()
        if entry.inputs[0][1] == "UINT8":
            model = nets.FromBytes(model)
        calibrate(model, entry)
    model.eval()
    compiled = compile_model(model, entry)
    compiled.save(os.path.join(directory, "1", "model.pt"))
    with torch.no_grad():
        shapes = [t.shape for t in tensors(model(*inputs_for(entry, 2, 1)))]
    outputs = [(f"OUTPUT__{i}", "FP32", list(s[1:])) for i, s in enumerate(shapes)]
    write_references(reference, model, compiled, entry, [o[0] for o in outputs], args)
    parameters = []
    if args.precision != "fp32":
        parameters.append(("precision", args.precision))
    if args.channels_last and len(entry.inputs[0][2]) == 3:
        parameters.append(("memory_format", "channels_last"))
    with open(os.path.join(directory, "config.pbtxt"), "w") as f:
        f.write(config_text(name, entry, outputs, args.max_batch, slo, parameters))
    print(
        f"{name}: {os.path.getsize(os.path.join(directory, '1', 'model.pt')) / 2**20:.1f} MiB, SLO {slo:g} ms{said} "
        f"({time.monotonic() - start:.1f} s)",
        flush=True,
    )


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--output", required=True, metavar="DIR", help="the model repository to write")
    p.add_argument("--set", choices=sorted(SETS), default="demo", help="which models (default: demo)")
    p.add_argument("--models", metavar="A,B", help="only these of the set")
    p.add_argument(
        "--slo",
        choices=["paper", "rule"],
        default="paper",
        help="the set's own SLOs, or twice the latency at batch 32 on the whole device",
    )
    p.add_argument("--profile", metavar="DIR", help="profile directory (or its latency.csv) for --slo rule")
    p.add_argument("--max-batch", type=int, metavar="N", help="max_batch_size (default: demo 8, paper 32)")
    p.add_argument("--precision", choices=["fp32", "fp16", "bf16"], help="on GPUs (default: demo fp32, paper fp16)")
    p.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="for convolutions on GPUs (default: with --precision other than fp32)",
    )
    p.add_argument(
        "--reference-device", metavar="cuda:0", help="compute the references there, in --precision (default: CPU, fp32)"
    )
    p.add_argument(
        "--uint8",
        action="store_true",
        help="models of colour images take bytes and normalise them on the device: a quarter of the traffic",
    )
    args = p.parse_args()
    # Many threads on small operators spin against one another: on a 16-core virtual machine the default made this 40
    # times slower.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(4, os.cpu_count() or 1))))
    args.max_batch = args.max_batch or MAX_BATCH[args.set]
    args.precision = args.precision or ("fp32" if args.set == "demo" else "fp16")
    if args.channels_last is None:
        args.channels_last = args.precision != "fp32"
    known = SETS[args.set]
    names = args.models.split(",") if args.models else list(known)
    for name in names:
        if name not in known:
            p.error(f"no model {name} in set {args.set}: {', '.join(known)}")
    if args.slo == "rule" and not args.profile:
        p.error("--slo rule needs --profile")
    latencies = read_rule(args.profile) if args.slo == "rule" else {}
    for name in names:
        if args.uint8 and known[name].inputs[0][2][0] == 3:
            known[name].inputs = [(n, "UINT8", dims) for n, _, dims in known[name].inputs]
        export(name, known[name], args, rule_slo(latencies, name) if args.slo == "rule" else known[name].slo)


if __name__ == "__main__":
    main()
