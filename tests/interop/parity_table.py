"""Prints docs/parity.md: how near our numbers come to the authors'.

  PYTHONPATH=.:tests/interop \
      python tests/interop/parity_table.py > docs/parity.md

Minutes; the same cases as test_golden.py.
"""

import test_golden as golden

_HEAD = """# Parity with the authors' code

Largest relative error of each quantity recorded from the authors' own PyTorch
code (float32, CPU), as `tests/interop/test_golden.py` measures it: the largest
difference over the array's largest entry; for gradients, over that plus a
hundredth of the network's largest gradient. Tolerance 1e-4; 1e-3 for what
stands at the end of several updates (`run/`, `final_`).

"Moved" counts how often all weights had to be moved by about one unit in their
last place before the case passed; the first error is that of the weights as
they are. The docstring of the test says why that is needed at all.

| file | quantity | error | moved | error as they are |
|---|---|---|---|---|"""


def main() -> None:
  print(_HEAD)
  for case in golden._CASES:
    path, quantity = case.values
    if golden.kind_of(path) not in golden._PORTS:
      continue
    limit = golden.tolerance_of(quantity)
    errors = golden.errors_until(path, quantity, limit)
    first = f"{errors[0]:.1e}" if len(errors) > 1 else ""
    print(
      f"| {path.stem} | `{quantity}` | {errors[-1]:.1e} | {len(errors) - 1} "
      f"| {first} |",
      flush=True,
    )


if __name__ == "__main__":
  main()
