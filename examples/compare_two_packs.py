"""Round mini-klein by two rules, and compare the two packs layer by layer.

Writes ./exact and ./absmean. `exact` finds the codes and scales with the least squared error;
`absmean` is BitNet's rule.
"""

from bonsai_quant import convert, diff

for solver in ("exact", "absmean"):
    converted = convert("mini-klein", mode="ternary", solver=solver, formats="bonsai", out=solver)
    measured = converted.manifests["bonsai"].measured
    print(f"{solver}: relative error {measured.relative_error:.3f}")

compared = diff("exact", "absmean")
changed = [layer for layer in compared.layers if not layer.same]
print(f"{len(changed)} of {len(compared.layers)} tensors differ; the most changed are")
for layer in sorted(changed, key=lambda d: d.flipped / d.size, reverse=True)[:5]:
    print(f"  {layer.name}: {layer.flipped / layer.size:.1%} of the codes")
