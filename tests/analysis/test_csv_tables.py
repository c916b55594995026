"""Tables as CSV: the same bytes, and text that looks like numbers."""

import pandas as pd

from fp4jax.analysis.csv_tables import header_of, read_csv, write_csv


def test_equal_tables_are_equal_bytes_with_few_digits_or_all(tmp_path):
    frame = pd.DataFrame({"label": ["1e3"], "value": [1 / 3]})
    path = write_csv(frame, tmp_path / "new" / "a.csv")
    assert path.read_bytes() == b"label,value\n1e3,0.333333\n"
    assert read_csv(path, ["label"])["label"].tolist() == ["1e3"]
    write_csv(frame, path, digits=None)
    assert read_csv(path, ["label"])["value"].tolist() == [1 / 3]
    assert header_of(path) == ["label", "value"]
    assert header_of(tmp_path) == header_of(tmp_path / "none.csv") == []
