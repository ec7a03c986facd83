"""Parquet files as pyarrow writes them, for crates/data/tests/rows.rs.

    python3 tools/reference/rows_golden.py

Writes to crates/data/tests/golden: rows.jsonl, and the same rows as .parquet in every codec and encoding that strings can
have, in one page or many, with both versions of pages; nulls.parquet has nulls in every column, nested.parquet a text that
is none. Needs the package pyarrow (written with 26.0.1), which setup.sh does not install.
"""
import json, pathlib
import pyarrow as pa
import pyarrow.parquet as pq

OUT = pathlib.Path(__file__).resolve().parents[2] / "crates/data/tests/golden"


def source(i):
    # Short and long, some not ASCII, some shared starts, some equal.
    lines = [f"fn f{i % 37}(x: u32) -> u32 {{", f"    x + {i}  // größer als {i % 5} 🦅", "}", ""]
    return "\n".join(lines * (i % 4 + 1)) if i % 10 else "// the same in many rows\nfn main() {}\n"


ROWS = [dict(repo_name=f"r{i % 3}", path=f"src/f{i}.rs", license=["mit", "apache-2.0"][i % 2], size=i, content=source(i))
        for i in range(60)]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
TABLE = pa.table(COLUMNS)
LARGE = TABLE.set_column(4, "content", pa.array(COLUMNS["content"], pa.large_string()))
# Arrow keeps its own schema beside the file's, which would be half of some of these.
plain = dict(use_dictionary=False, store_schema=False)

OUT.mkdir(exist_ok=True)
(OUT / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")


def write(name, table=TABLE, **options):
    pq.write_table(table, OUT / f"{name}.parquet", **options)


write("snappy", compression="snappy")
write("zstd-groups", compression="zstd", row_group_size=16)
write("gzip-plain", compression="gzip", **plain)
write("brotli", compression="brotli", store_schema=False)
write("lz4", compression="lz4", store_schema=False)
write("none-large", LARGE, compression="none", row_group_size=40)
write("pages-2", LARGE, compression="zstd", data_page_version="2.0", data_page_size=512, write_batch_size=4, **plain)
write("pages-dictionary", compression="snappy", data_page_size=64, write_batch_size=4, store_schema=False)
for encoding in ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"]:
    columns = {name: encoding for name in ["repo_name", "path", "license", "content"]}
    write(encoding.lower().split("_byte")[0].replace("_", "-"), compression="zstd", column_encoding=columns, **plain)

some = lambda values, step: [None if i % step == 0 else value for i, value in enumerate(values)]
nulls = pa.table({"content": some(COLUMNS["content"], 4), "path": some(COLUMNS["path"], 3),
                  "repo_name": some(COLUMNS["repo_name"], 7), "license": pa.array([None] * 60, pa.string())})
write("nulls", nulls, compression="snappy", row_group_size=25, write_batch_size=3, data_page_size=64, store_schema=False)
write("nulls-2", nulls, compression="gzip", data_page_version="2.0", store_schema=False)
nested = pa.table({"id": [1], "content": [["a", "b"]], "info": [{"lines": 3, "path": "a.rs"}], "body": ["x"], "on": [True]})
write("nested", nested, compression="none", store_schema=False)
