#!/bin/sh
# Serves a base model and LoRA adapters under the names of the deployments that agents use.
#
# usage: serve.sh DOMAIN=PATH... [-- ARGUMENTS OF VLLM...]
# e.g.:  serve.sh ceo=/adapters/ceo cfo=/adapters/cfo -- --tensor-parallel-size 4
set -eu

model=${MODEL:-meta-llama/Llama-3.3-70B-Instruct}
base=${BASE_NAME:-${AZURE_AI_MODEL_DEPLOYMENT:-llama-3.3-70b}}

usage() {
  echo "usage: $0 DOMAIN=PATH... [-- ARGUMENTS OF VLLM...]" >&2
  exit 2
}

# The arguments are rotated: each DOMAIN=PATH goes to the end as BASE-DOMAIN=PATH, until they are through.
count=$#
adapters=0
while [ "$count" -gt 0 ]; do
  argument=$1
  shift
  count=$((count - 1))
  if [ "$argument" = -- ]; then
    while [ "$count" -gt 0 ]; do
      set -- "$@" "$1"
      shift
      count=$((count - 1))
    done
    break
  fi
  case $argument in
    [a-z0-9]*=?*) set -- "$@" "$base-$argument" ;;
    *) usage ;;
  esac
  adapters=$((adapters + 1))
done
[ "$adapters" -gt 0 ] || usage

# vLLM reads adapters up to the next option: they come last but for what was given after `--`.
set -- vllm serve "$model" \
  --served-model-name "$base" \
  --enable-lora --max-lora-rank "${RANK:-16}" --max-loras "${MAX_LORAS:-4}" \
  --enable-auto-tool-choice --tool-call-parser "${TOOL_PARSER:-llama3_json}" \
  --host "${HOST:-127.0.0.1}" --port "${PORT:-8000}" \
  --lora-modules "$@"

if [ -n "${DRY_RUN:-}" ]; then
  printf "%s\n" "$*"
  exit 0
fi
exec "$@"
