#!/bin/sh
# Makes a fixture of the store format as this version of opsctl writes it: fixtures/stores/NAME.
# Run once for each version of the format and never again: a fixture that is there must restore for ever.
#
#   scripts/make-format-fixture.sh NAME [PATH OF opsctl]      as root, so that owners are those of root
set -eu
umask 022

fail() {
    printf 'make-format-fixture: %s\n' "$*" >&2
    exit 1
}

[ $# -ge 1 ] || fail 'usage: scripts/make-format-fixture.sh NAME [PATH OF opsctl]'
repo=$(cd "$(dirname "$0")/.." && pwd)
opsctl=${2:-$repo/target/debug/opsctl}
out=$repo/fixtures/stores/$1
[ "$(id -u)" -eq 0 ] || fail 'run it as root'
[ -x "$opsctl" ] || fail "$opsctl is missing: run \`cargo build\`"
[ ! -e "$out" ] || fail "$out is there, and is never made anew"
for name in $(env | sed -n -e 's/^\(OPSCTL_[A-Z_0-9]*\)=.*/\1/p' -e 's/^\(RAILWAY_[A-Z_0-9]*\)=.*/\1/p'); do
    unset "$name"
done
scratch=$(mktemp -d "${TMPDIR:-/tmp}/opsctl-fixture.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
data=$scratch/data
mkdir -p "$out/expected"

# listing FILE: the tree as JSON. A database by its content as SQL, everything else by its bytes.
listing() {
    python3 - "$data" >"$1" <<'PYTHON'
import base64, hashlib, json, os, sqlite3, stat, sys

root = os.fsencode(sys.argv[1])
entries, inodes = [], {}


def text(key, value):
    try:
        return {key: value.decode()}
    except UnicodeDecodeError:
        return {key + "_b64": base64.b64encode(value).decode()}


def add(path):
    full = os.path.join(root, path) if path else root
    status = os.lstat(full)
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo"}
    kind = kinds[stat.S_IFMT(status.st_mode)]
    entry = {**text("path", path), "type": kind, "mode": stat.S_IMODE(status.st_mode)}
    entry |= {"uid": status.st_uid, "gid": status.st_gid}
    entry["mtime"] = [status.st_mtime_ns // 10**9, status.st_mtime_ns % 10**9]
    if kind == "file":
        with open(full, "rb") as file:
            content = file.read()
        if content.startswith(b"SQLite format 3\0"):
            db = sqlite3.connect(full)
            entry["sql"] = list(db.iterdump())
            db.close()
        else:
            entry |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if kind == "symlink":
        entry |= text("target", os.readlink(full))
    if kind != "dir" and status.st_nlink > 1:
        entry["link_to"] = inodes.setdefault(status.st_ino, path).decode()
    xattrs = {name: os.getxattr(full, name, follow_symlinks=False) for name in os.listxattr(full, follow_symlinks=False)}
    if xattrs:
        entry["xattrs"] = {name: base64.b64encode(value).decode() for name, value in sorted(xattrs.items())}
    entries.append(entry)
    if kind == "dir":
        for name in sorted(os.listdir(full)):
            add(os.path.join(path, name) if path else name)


add(b"")
print(json.dumps(entries, indent=1))
PYTHON
}

snapshot() {
    id=$("$opsctl" snapshot "$data" --store "file://$out/store" --source fixture --signing-key "$scratch/signing.key" \
        --state-dir "$scratch/state" --tag "made=$1" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["snapshot_id"])')
    listing "$out/expected/$id.json"
}

# --- A tree with every kind of entry, of a few kilobytes

python3 - "$data" <<'PYTHON'
import os, random, sqlite3, sys

data = sys.argv[1]
os.makedirs(data + "/docs/empty folder")
random.seed(1)


def write(name, content, mode=0o644):
    with open(os.path.join(os.fsencode(data), name), "wb") as file:
        file.write(content)
    os.chmod(os.path.join(os.fsencode(data), name), mode)


write(b"plain.txt", b"A file of the first format.\n")
write(b"empty", b"", 0o600)
write(b"docs/text.md", b"".join(b"Line %d of a text.\n" % n for n in range(600)))
write(b"docs/noise.bin", random.randbytes(5000), 0o4755)
write(b"docs/not utf-8 \xff\xfe", b"name\n")
write(b"docs/new\nline", b"name\n")
with open(data + "/docs/sparse", "wb") as file:
    file.write(random.randbytes(4096))
    file.seek(3_000_000)
    file.write(b"end\n")
    file.truncate(5_000_000)
os.symlink("../plain.txt", data + "/docs/link")
os.symlink(b"to \xff nowhere", os.fsencode(data) + b"/dangling")
os.link(data + "/plain.txt", data + "/docs/hard link")
os.mkfifo(data + "/pipe", 0o640)
os.setxattr(data + "/plain.txt", "user.note", b"value \0 with a zero")
os.chmod(data + "/docs/empty folder", 0o2750)
db = sqlite3.connect(data + "/app.db")
db.execute("PRAGMA journal_mode=wal")
db.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, text TEXT)")
db.executemany("INSERT INTO message (text) VALUES (?)", [(f"message {n}",) for n in range(50)])
db.commit()
db.close()
for folder, folders, files in os.walk(os.fsencode(data), topdown=False):
    for at, name in enumerate(sorted(folders + files) + [b"."]):
        seconds = -1_000 if name == b"empty" else 1_772_892_000 + at
        os.utime(os.path.join(folder, name), ns=(0, seconds * 10**9 + 123_456_789), follow_symlinks=False)
PYTHON

"$opsctl" init --store "file://$out/store" --new-identity "$out/identity.txt" --new-signing-key "$scratch/signing.key" >/dev/null
sed -n 's/^# opsctl-signer: //p' "$out/identity.txt" >"$out/signer.pub"
snapshot first

# --- The same a while later: changed, added, renamed, removed

printf 'Changed for the second snapshot.\n' >"$data/plain.txt"
printf 'One more line.\n' >>"$data/docs/text.md"
mv "$data/docs/noise.bin" "$data/renamed.bin"
rm "$data/dangling"
mkdir "$data/added"
printf 'New.\n' >"$data/added/new.txt"
python3 -c 'import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("DELETE FROM message WHERE id % 7 = 0")
db.execute("INSERT INTO message VALUES (100, ?)", ("after the first",))
db.commit()
db.close()' "$data/app.db"
snapshot second
chmod 0644 "$out/identity.txt" # git keeps no other mode; the key protects nothing

du -sb "$out"
