#!/usr/bin/env python3
"""Makes the data set of `make bench`: a folder shaped like the /data of a hosted coding agent.

At scale 1 about 60,000 files and 1 GB: source trees, many small JSON files, one SQLite database of 200 MB, append-only
JSONL logs, programs, and media that do not compress. The same seed makes the same bytes, so that two runs, or two
tools, can be compared. `day` changes such a folder as a working day does.

Usage: dataset.py make DIR [--scale F] [--seed N]
       dataset.py day DIR [--number N]
"""

import argparse
import json
import os
import random
import sqlite3
import string
import sys
from pathlib import Path

# What scale 1 holds. Sizes in bytes.
REPOSITORIES, FILES_IN_REPOSITORY = 27, 1250
SESSIONS, MESSAGES_IN_SESSION = 260, 100
LOGS, LOG_SIZE = 8, 16 << 20
PROGRAMS, PROGRAM_SIZE = 6, 16 << 20
MEDIA, MEDIA_SIZE = 240, 1 << 20
DATABASE_SIZE = 200 << 20


class Text:
    """Prose and code with the redundancy of real ones: words by Zipf's law, lines that come back in other files."""

    def __init__(self, rng, lines, first_id=0):
        self.rng = rng
        self.next_id = first_id
        letters = string.ascii_lowercase
        words = ["".join(rng.choices(letters, k=rng.randint(2, 11))) for _ in range(6000)]
        weights = [1 / (rank + 8) for rank in range(len(words))]
        forms = [
            "let {0} = {1}.{2}({3})?;", "fn {0}_{1}({2}: &{3}) -> Result<{4}> {{", "    if {0}.{1} != {2} {{", "}}",
            "        return {0}({1}, {2}_{3});", "use {0}::{1}::{{{2}, {3}}};", "// {0} {1} {2} {3} {4} {5} {6}",
            "    {0}: {1}<{2}>,", '    assert_eq!({0}.{1}(), "{2} {3} {4}");', "", "    self.{0}.{1} = {2} + {3};",
            "{0} {1} {2} {3} {4} {5} {6} {7}.",
        ]
        drawn = iter(rng.choices(words, weights, k=lines * 8))
        self.words, self.weights = words, weights
        self.lines = [rng.choice(forms).format(*(next(drawn) for _ in range(8))) for _ in range(lines)]

    def code(self, size):
        return "\n".join(self.rng.choices(self.lines, k=max(1, size // 30)))[:size]

    def prose(self, words):
        return " ".join(self.rng.choices(self.words, self.weights, k=words))

    def name(self):
        return "_".join(self.rng.choices(self.words, k=2))

    def identity(self, kind):
        """As OpenCode makes them: in ascending order of time, with a random end."""
        self.next_id += self.rng.randint(1, 900)
        return f"{kind}_{self.next_id:012x}{self.rng.getrandbits(56):014x}"


def size_of_source(rng):
    """Bytes of a source file: most are small, a few are large (log-normal, mean about 6 KB)."""
    return min(400_000, max(40, int(rng.lognormvariate(8.0, 1.2))))


def message(text, session, number):
    return {
        "id": text.identity("msg"), "sessionID": session, "role": ("user", "assistant")[number % 2],
        "time": {"created": 1_760_000_000_000 + number * 7321}, "modelID": "a-model-of-today", "cost": 0,
        "tokens": {"input": text.rng.randint(100, 90_000), "output": text.rng.randint(1, 4000), "reasoning": 0},
        "parts": [{"type": "text", "text": text.prose(text.rng.randint(20, 220))}],
    }


def log_line(text, number):
    return json.dumps({"time": 1_760_000_000 + number, "level": "info", "actor": text.identity("tok")[:12],
                       "action": text.rng.choice(text.words[:40]), "target": text.name()}) + "\n"


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, str):
        data = data.encode()
    path.write_bytes(data)


def source_trees(root, text, scale):
    for number in range(round(REPOSITORIES * scale)):
        repository = root / f"workspace/project-{number:02}"
        folders = [repository / "src" / text.name() for _ in range(60)]
        for file in range(FILES_IN_REPOSITORY):
            write(text.rng.choice(folders) / f"{text.name()}_{file}.rs", text.code(size_of_source(text.rng)))


def sessions(root, text, scale):
    for _ in range(round(SESSIONS * scale)):
        session = text.identity("ses")
        for number in range(MESSAGES_IN_SESSION):
            path = root / f"opencode/storage/message/{session}/{text.identity('msg')}.json"
            write(path, json.dumps(message(text, session, number), indent=2))


def logs(root, text, scale):
    for number in range(LOGS):
        path = root / f"openwork-orchestrator/logs/audit-{number}.jsonl"
        write(path, "")
        with path.open("a", encoding="utf-8") as file:
            line = 0
            while file.tell() < LOG_SIZE * scale:
                file.write("".join(log_line(text, line + step) for step in range(500)))
                line += 500


def programs(root, text, scale):
    """Half of each is text and tables, half is dense, so that it compresses to about 60 %."""
    for number in range(PROGRAMS):
        blocks = [
            text.rng.randbytes(4096) if block % 2 else text.code(4096).ljust(4096).encode()
            for block in range(round(PROGRAM_SIZE * scale) // 4096)
        ]
        write(root / f"sidecar/bin/program-{number}", b"".join(blocks))


def media(root, text, scale):
    for number in range(round(MEDIA * scale)):
        size = int(text.rng.uniform(0.2, 1.8) * MEDIA_SIZE)
        write(root / f"workspace/media/{number // 40}/picture-{number}.jpg", text.rng.randbytes(size))


def grow_database(path, text, size):
    """Appends sessions until the database is `size` bytes large."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE IF NOT EXISTS message (id TEXT PRIMARY KEY, session TEXT, time INTEGER, data TEXT)")
    database.execute("CREATE INDEX IF NOT EXISTS by_session ON message (session, time)")
    while path.stat().st_size < size:
        session = text.identity("ses")
        rows = [(text.identity("msg"), session, number, json.dumps(message(text, session, number))) for number in range(400)]
        database.executemany("INSERT INTO message VALUES (?, ?, ?, ?)", rows)
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def make(root, scale, seed):
    if root.exists() and any(root.iterdir()):
        sys.exit(f"{root} is not empty")
    text = Text(random.Random(seed), 120_000)
    for part in (source_trees, sessions, logs, programs, media):
        part(root, text, scale)
    database = root / "opencode/opencode.db"
    grow_database(database, text, int(DATABASE_SIZE * scale))


def day(root, number):
    """A working day: 1 % of the files get an edit, the logs grow by 1 %, the database by 1 %."""
    rng = random.Random(1_000_003 + number)
    text = Text(rng, 2000, first_id=number << 40)
    files = sorted(path for folder in ("workspace", "opencode/storage") for path in (root / folder).rglob("*.*") if path.is_file())
    editable = [path for path in files if path.suffix != ".jpg"]
    for path in rng.sample(editable, len(files) // 100):
        content = path.read_bytes()
        at = rng.randrange(len(content))
        path.write_bytes(content[:at] + text.prose(12).encode() + content[at:])
    for path in sorted((root / "openwork-orchestrator/logs").iterdir()):
        more = path.stat().st_size // 100
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(log_line(text, line) for line in range(max(1, more // 130))))
    database = root / "opencode/opencode.db"
    grow_database(database, text, int(database.stat().st_size * 1.01))


def summary(root):
    found = [(Path(folder) / name).stat().st_size for folder, _, names in os.walk(root) for name in names]
    print(f"{root}: {len(found)} files, {sum(found) / 1e6:.0f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("what", choices=["make", "day"])
    parser.add_argument("dir", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=20_261_121)
    parser.add_argument("--number", type=int, default=1, help="which day: each changes something else")
    options = parser.parse_args()
    if options.what == "make":
        options.dir.mkdir(parents=True, exist_ok=True)
        make(options.dir, options.scale, options.seed)
    else:
        day(options.dir, options.number)
    summary(options.dir)


if __name__ == "__main__":
    main()
