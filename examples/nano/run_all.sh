#!/bin/sh
# The long runs of the nano models, one after the other on one thread; the same command again goes on where it was.
#     sh examples/nano/run_all.sh DATA OUT        DATA: what examples/debian/build.py and handbooks.py wrote
set -eu
data=$1 out=$2 here=$(dirname "$0")
export OMP_NUM_THREADS=1
test -f "$out/tokenizers/mbart/tokenizer.json" || python "$here/vocabulary.py" --data "$data" --out "$out/tokenizers"
test -f "$out/mbart-validation.jsonl" || python "$here/mixture.py" --data "$data" --out "$out"
test -f "$out/mbart-random/tokenizer.json" || python "$here/create.py" --tokenizers "$out/tokenizers" --out "$out"
for model in mbart xlmr; do
    python "$here/pretrain.py" $model --out "$out"
done
test -f "$out/tokenizers/real/tokenizer.json" ||
    python "$here/vocabulary.py" --real --data "$data" --out "$out/tokenizers"
test -f "$out/real-random/tokenizer.json" || python "$here/create.py" --real --tokenizers "$out/tokenizers" --out "$out"
python "$here/pretrain.py" real --out "$out"
