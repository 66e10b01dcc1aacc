"""What V8 says of modules: calls of their exports, or whether they are valid (wasm_calls.mjs)."""
import json
import pathlib
import subprocess

CALLS = pathlib.Path(__file__).with_name("wasm_calls.mjs")


def in_v8(questions):
    """What V8 answers to each of them."""
    done = subprocess.run(["node", CALLS], input="".join(json.dumps(question) + "\n" for question in questions), text=True,
                          capture_output=True, check=True, timeout=300)
    return [json.loads(line) for line in done.stdout.splitlines()]
