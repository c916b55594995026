"""Writes all that docs/ has from code: ``python -m docs.generate``."""

from docs.generate.everything import ROOT, made

if __name__ == "__main__":
    for path, content in made().items():
        (ROOT / path).write_text(content)
        print(path)
