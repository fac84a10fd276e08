#!/bin/sh
# Restores one snapshot of an opsctl store WITHOUT opsctl. Explained in break-glass.md.
#
#   sh break-glass.sh STORE_DIR SOURCE|SNAPSHOT_ID IDENTITY_FILE SIGNER_PUBKEY NEWDIR
#
# STORE_DIR is a local copy of the store, or of the objects that this snapshot needs. Everything is
# checked before it is used; the first thing that does not hold ends the script, and NEWDIR is not
# made. What cannot be put back is listed in NEWDIR.not-restored.jsonl. Scratch lies beside NEWDIR.
# Needs: age zstd tar jq (1.6 or later) sha256sum base64 minisign, and GNU coreutils.
set -eu
umask 077
export LC_ALL=C
unset CDPATH TAR_OPTIONS

say() { printf 'break-glass: %s' "$*" | tr '\001-\037\177-\377' '?' >&2; echo >&2; } # names are not trusted
die() { say "REFUSED: $*"; exit 1; }
absolute() { case $1 in /*) printf %s "$1" ;; *) printf %s/%s "$PWD" "$1" ;; esac; }
hash_of() { sha256sum <"$1" | cut -c1-64; }
exists() { [ -e "$1" ] || [ -L "$1" ]; }

[ $# -eq 5 ] || die "usage: sh break-glass.sh STORE_DIR SOURCE|SNAPSHOT_ID IDENTITY_FILE SIGNER_PUBKEY NEWDIR"
store=$(absolute "$1") wanted=$2 identity=$(absolute "$3") signer=$4 new=$(absolute "${5%/}")
notes=$new.not-restored.jsonl
for tool in age zstd tar jq sha256sum base64 minisign mktemp paste tac truncate; do
  command -v "$tool" >/dev/null || die "the program $tool is not installed"
done
[ -r "$identity" ] || die "cannot read the identity file $identity"
if exists "$new" || exists "$notes"; then die "$new or $notes exists"; fi
scratch=$(mktemp -d "$new.scratch.XXXXXX")
cleanup() { # removes the scratch folder, even where directories are read-only by now
  cd /
  rm -rf "$scratch" 2>/dev/null || { chmod -R u+rwX "$scratch" && rm -rf "$scratch"; }
  [ "$1" -eq 0 ] || say "stopped with exit status $1; the snapshot is not restored"
}
trap 'cleanup $?' EXIT
trap 'exit 130' INT HUP TERM
mkdir "$scratch/packs" "$scratch/links" "$scratch/tree"

# ---- 1. The receipt: newest of the source, or the one asked for ------------------------------
case $wanted in '' | . | .. | */*) die "'$wanted' is neither a source nor a snapshot id" ;; esac
for receipt in "$store/snapshots/$wanted/"*.json; do :; done # ends with the last: names sort by time
[ -f "$receipt" ] || for receipt in "$store/snapshots/"*"/$wanted.json"; do :; done
[ -f "$receipt" ] || die "no receipt for '$wanted' in $store/snapshots"
source=${receipt%/*} source=${source##*/} id=${receipt##*/} id=${id%.json}
say "snapshot $id of source $source"

cp "$receipt" "$scratch/receipt" # from here on only the copies are read, so they cannot change
cp "$receipt.minisig" "$scratch/minisig" || die "the receipt has no signature beside it"
receipt=$scratch/receipt
[ "${id##*-}" = "$(hash_of "$receipt" | cut -c1-16)" ] || die "the receipt does not hash to what its name says"
minisign -Vq -m "$receipt" -x "$scratch/minisig" -P "$signer" ||
  die "the receipt is not signed by $signer (an older snapshot can be chosen by its id)"

# Definitions for all jq programs below. \A and \z: ^ and $ would let a newline through.
defs='
def bad($why): error("does not hold: " + $why);
def int: if type == "number" and . == floor and fabs <= 9007199254740991 then . else bad("a number") end;
def nat: if int >= 0 then . else bad("a negative number") end;
def hash: if type == "string" and test("\\A[0-9a-f]{64}\\z") then . else bad("a hash") end;
def base64($text; $b64): # given as text or as base64
  if ($text | type) == "string" and $b64 == null then $text | @base64
  elif ($b64 | type) == "string" and $text == null and ($b64 | test("\\A[A-Za-z0-9+/]*=*\\z")) then $b64
  else bad("a name") end;
def document($type): if .type == $type and .format == 1 and .requires == [] then . else
  bad("written in a format or with requirements that this script cannot read: " + tojson[:200]) end;
def extent: "\(.p | hash)|\(.c | hash)|\(.o // 0 | nat)|\(.l | nat)";
def pieces($size; $holes): # what goes where: extents follow one another, holes are stepped over
  foreach .[] as $x ({at: 0, hole: 0}; .out = [] | .from = ($x.o // 0 | nat) | .left = ($x.l | nat)
    | until(.left == 0;
        ($holes[.hole] // [$size, 0]) as [$start, $len] | ([.left, $start - .at] | min) as $n
        | if $n < 0 or ($n == 0 and $len == 0) then bad("the content is longer than the file") else . end
        | if $n > 0 then .out += ["piece|\(.at)|\($x.p | hash)|\($x.c | hash)|\(.from)|\($n)"] else . end
        | .from += $n | .left -= $n | .at += $n
        | if .at == $start then .at += $len | .hole += 1 else . end); .out[]);
'
root=$(jq -er --arg source "$source" --arg id "$id" "$defs"'
  document("opsctl-receipt")
  | if .source != $source then bad("the receipt is of source \(.source)") else . end
  | ($id | split("-")) as [$time, $seq]
  | if (.finished_at | gsub("[-:]"; "")) == $time and .seq == ($seq | tonumber) then .
    else bad("time or sequence of the receipt differ from its name") end
  | "\(.pack_list | hash)|\(.root | extent)"' "$receipt") || die "the receipt does not hold"
pack_list=${root%%"|"*} root=${root#*"|"}
say "finished $(jq -r '.finished_at + ", status " + .status + ", counts " + (.counts | tojson)' "$receipt")"

# ---- 2. The packs: each checked as a whole, then each chunk by its name ----------------------
object=packlists/$(printf %.2s "$pack_list")/$pack_list.jsonl
cp "$store/$object" "$scratch/packlist"
[ "$(hash_of "$scratch/packlist")" = "$pack_list" ] || die "$object does not hash to its name"
jq -r "$defs"'"\(.pack | hash)|\(.size | nat)"' "$scratch/packlist" >"$scratch/packs.txt"
total=$(wc -l <"$scratch/packs.txt") n=0

unpack() { # turns pack $1 of $2 bytes into a folder of chunks; never a pipe, which would hide a failure
  object=packs/$(printf %.2s "$1")/$1.tar.zst.age
  [ -f "$store/$object" ] || die "$object is missing from the copy of the store"
  cp "$store/$object" "$scratch/age"
  [ "$(wc -c <"$scratch/age")" -eq "$2" ] || die "$object has not its $2 bytes"
  [ "$(hash_of "$scratch/age")" = "$1" ] || die "$object does not hash to its name"
  age -d -i "$identity" -o "$scratch/zst" "$scratch/age" || die "cannot decrypt $object"
  zstd -dq -o "$scratch/tar" "$scratch/zst" || die "cannot decompress $object"
  tar -tvf "$scratch/tar" >"$scratch/names" || die "$object is not a tar file"
  [ "$(cut -c1 "$scratch/names" | sort -u)" = - ] || die "$object holds something else than files"
  mkdir "$scratch/packs/$1"
  tar -xf "$scratch/tar" -C "$scratch/packs/$1" --no-same-owner || die "cannot unpack $object"
  rm "$scratch/age" "$scratch/zst" "$scratch/tar"
  cd "$scratch/packs/$1"
  ls -A >"$scratch/names"
  paste -d ' ' "$scratch/names" /dev/null "$scratch/names" >"$scratch/sums"
  sha256sum -c --strict --quiet "$scratch/sums" || die "$object holds a chunk that does not hash to its name"
}
while IFS='|' read -r pack size <&3; do
  say "pack $((n += 1)) of $total: $pack"
  unpack "$pack" "$size"
done 3<"$scratch/packs.txt"

# ---- 3. The manifest: root, then branches, then leaves ---------------------------------------
piece() { # writes bytes $5..$5+$6 of chunk $4 in pack $3 into file $1 at byte $2
  dd if="$scratch/packs/$3/$4" of="$1" bs=1M iflag=skip_bytes,count_bytes oflag=seek_bytes \
    conv=notrunc skip="$5" count="$6" seek="$2" status=none || die "chunk $4 of pack $3 is missing"
}
gather() { # puts the extents of list $1 together as file $2
  at=0
  : >"$2"
  while IFS='|' read -r pack chunk from len <&4; do
    piece "$2" "$at" "$pack" "$chunk" "$from" "$len"
    at=$((at + len))
  done 4<"$1"
  [ "$(wc -c <"$2")" -eq "$at" ] || die "an extent is longer than its chunk"
}
printf '%s\n' "$root" >"$scratch/refs"
gather "$scratch/refs" "$scratch/root"
jq -r "$defs"'document("opsctl-root") | .children[] | .x | extent' "$scratch/root" >"$scratch/refs"
depth=$(jq -r "$defs"'.depth | nat | if . > 6 then bad("the depth") else . end' "$scratch/root")
while [ "$depth" -gt 0 ]; do
  gather "$scratch/refs" "$scratch/branches"
  jq -r "$defs"'.x | extent' "$scratch/branches" >"$scratch/refs"
  depth=$((depth - 1))
done
gather "$scratch/refs" "$scratch/manifest"

say "reading the manifest" # into one line for each step of the rebuilding; names travel as base64
jq -nr "$defs"'
def time: (.mtime[0] | int) as $s | (.mtime[1] | nat) as $ns # below 0 touch counts the fraction downwards
  | if $ns > 999999999 then bad("a time") elif $s < 0 and $ns > 0
    then "@-\(-1 - $s).\(2000000000 - $ns | tostring[1:])" else "@\($s).\(1000000000 + $ns | tostring[1:])" end;
def mode: (.mode | nat) as $m | "0" + ([512, 64, 8, 1] | map($m / . | floor % 8 | tostring) | add);
def name: base64(.path; .path_b64);
def line($op): "\($op)|\(name)|\(.uid | nat):\(.gid | nat)|\(mode)|\(time)";
foreach (inputs | select(.missing == null and .excluded == null and (.type | IN("socket", "char", "block") | not)))
  as $e ({links: {}}; .again = null | .keep = null
  | if $e.hardlink == null then . else # the first name of an inode is kept for the others
      ($e.hardlink | tostring) as $group | "\($e.type) \($e.sha256)" as $what
      | if .links[$group] == null then .keep = (.links | length) | .links[$group] = {n: .keep, $what}
        elif .links[$group].what == $what then .again = .links[$group].n
        else bad("hard links of one group differ") end end;
  . as {$again, $keep} | $e
  | if $again != null then "again|\(name)|\($again)"
    elif .type == "dir" then line(if name == "" then "root" else "dir" end)
    elif .type == "fifo" then line("fifo")
    elif .type == "symlink" then line("symlink") + "|" + base64(.target; .target_b64)
    elif .type == "file" then
      (.size | nat) as $size | ((.holes // []) | map(map(nat))) as $holes
      | line("file") + "|\($size)",
        (if (.extent_list // []) == [] then (.extents // []) | pieces($size; $holes)
         else (.extent_list[] | "part|" + extent), "list|\($size)|\($holes)" end),
        "end|\(.sha256 | hash)"
    else bad("an unknown type") end,
    if $keep == null then empty else "keep|\($keep)" end)' \
  "$scratch/manifest" >"$scratch/plan" || die "the manifest does not hold"

# ---- 4. The tree -----------------------------------------------------------------------------
# The script stands in the directory that it works in and uses plain names of one component only:
# no path of the manifest is ever followed, and no link of the snapshot is ever passed through.
unb64() { # sets $decoded to the bytes of $1; the x keeps newlines at the end
  decoded=$(printf %s "$1" | base64 -d && printf x) || die "'$1' is not base64"
  decoded=${decoded%x} bare=${1%%=*}
  [ ${#decoded} -eq $((${#bare} * 3 / 4)) ] || die "a name holds a NUL byte: $decoded"
}
here='' made=none # where we stand and the last directory made; '' is the top of the tree
enter() { # goes to the directory $1 of the tree, one step at a time
  while case "$1/" in "$here"/*) false ;; esac do cd -P ..; here=${here%/*}; done
  steps=${1#"$here"}
  while [ -n "$steps" ]; do
    steps=${steps#/} step=${steps%%/*}
    [ ! -L "./$step" ] || die "a directory turned into a link: $1"
    cd -P "./$step"
    here=$here/$step steps=${steps#"$step"}
  done
}
place() { # takes the path $1, goes to its directory and sets $base; nothing may have that name yet
  unb64 "$1"
  path=/$decoded
  case "$path/" in *//* | */./* | */../*) die "the manifest holds the path '$decoded'" ;; esac
  base=./${path##*/} parent=${path%/*}
  case "$made/" in "$parent"/*) ;; *) die "no directory before '$decoded' in the manifest" ;; esac
  enter "$parent"
  ! exists "$base" || die "'$decoded' is twice in the manifest"
}
me=$(id -u)
attributes() { # sets owner $2, mode $3 and time $4 of $1; the owner first, as that clears setuid
  [ "$me" -ne 0 ] || chown -h "$2" "$1"
  [ -L "$1" ] || chmod "$3" "$1"
  touch -hmd "$4" "$1"
}
say "rebuilding the tree"
file=$scratch/file
cd "$scratch/tree"
while IFS='|' read -r op name a b c d <&3; do
  case $op in
    root) made='' ;;
    dir) place "$name"; mkdir "$base"; made=$path ;;
    fifo) place "$name"; mkfifo "$base"; attributes "$base" "$a" "$b" "$c" ;;
    symlink)
      unb64 "$d"; target=$decoded
      place "$name"; ln -sT -- "$target" "$base"; attributes "$base" "$a" "$b" "$c" ;;
    file) # built aside; it gets its name when its hash holds
      place "$name"; owner=$a mode=$b time=$c
      rm -f "$file" "$scratch/parts"; truncate -s "$d" "$file" ;;
    piece) piece "$file" "$name" "$a" "$b" "$c" "$d" ;;
    part) printf '%s\n' "$name|$a|$b|$c" >>"$scratch/parts" ;;
    list)
      gather "$scratch/parts" "$scratch/list"
      jq -sr --argjson size "$name" --argjson holes "$a" "$defs"'pieces($size; $holes)' \
        "$scratch/list" >"$scratch/pieces" || die "the extents of '$path' do not hold"
      while IFS='|' read -r op name a b c d <&5; do piece "$file" "$name" "$a" "$b" "$c" "$d"; done 5<"$scratch/pieces" ;;
    end)
      [ "$(hash_of "$file")" = "$name" ] || die "the content of '$path' does not hold"
      attributes "$file" "$owner" "$mode" "$time"; mv -T "$file" "$base" ;;
    keep) ln -PT "$base" "$scratch/links/$name" ;;
    again) place "$name"; ln -PT "$scratch/links/$a" "$base" ;;
    *) die "a step that is not known: $op" ;;
  esac
done 3<"$scratch/plan"
[ "$made" != none ] || die "the manifest has no top directory"
# Attributes of directories last, children first: filling a directory changes its time.
tac "$scratch/plan" >"$scratch/plan-up"
while IFS='|' read -r op name owner mode time <&3; do
  case $op in dir) ;; root) break ;; *) continue ;; esac # the top is done after the move
  unb64 "$name"; path=/$decoded
  enter "${path%/*}"
  attributes "./${path##*/}" "$owner" "$mode" "$time"
done 3<"$scratch/plan-up"
cd /
jq -c 'select(.missing or .excluded or .changed or .xattrs or .unread_xattrs or (.type | IN("socket", "char", "block")))
  | del(.extents, .extent_list, .holes)' "$scratch/manifest" >"$scratch/notes"
[ ! -s "$scratch/notes" ] || cp "$scratch/notes" "$notes"
mv -T "$scratch/tree" "$new"
attributes "$new" "$owner" "$mode" "$time"
say "restored to $new"
[ ! -e "$notes" ] || say "$(wc -l <"$notes") entries are not wholly as they were, and are listed in $notes"
