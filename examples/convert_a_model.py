"""Convert mini-klein to ternary packs, print their sizes, and prove that they are right.

Writes ./packs. Takes seconds. Put a path or a Hub id in place of `mini-klein` for your own model.
"""

from bonsai_quant import convert, plan, verify

SOURCE = "mini-klein"

work = plan(SOURCE, mode="ternary")
print(f"{work.source_bytes:,} bytes will become {work.output_bytes:,}")

converted = convert(SOURCE, mode="ternary", formats="bonsai,mlx", out="packs")
for name, manifest in converted.manifests.items():
    n_bytes = sum(f.size for f in manifest.files)
    print(f"packs/{name}: {n_bytes:,} bytes, {manifest.bits_per_weight:.3f} bits per weight")

verdict = verify("packs", against=SOURCE)
for check in verdict.checks:
    print(f"{check.status}: {check.level} {check.subject}")
if verdict.failed:
    raise SystemExit("the packs are not right")
