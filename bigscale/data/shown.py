"""Makes names of files and classes safe to print.

File names may contain line breaks, terminal control codes, marks that change
the writing direction, and bytes that are not Unicode (as `os.fsdecode` reads
them). Names stay unchanged inside the program, in JSON and in data sets. In
messages these characters are escaped.
"""


def shown(text: str) -> str:
  r"""Returns a text on one line; escapes characters like \x1b or \udce9."""
  if text.isprintable():
    return text
  return "".join(
    letter
    if letter.isprintable()
    else letter.encode("ascii", "backslashreplace").decode()
    if letter > "\x7f"
    else f"\\x{ord(letter):02x}"
    for letter in text
  )


def shown_lines(text: str) -> str:
  """Applies `shown` to every line, and keeps line breaks."""
  return "\n".join(shown(line) for line in text.split("\n"))
