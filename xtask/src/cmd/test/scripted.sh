#!/bin/sh
# Prints what a test program does; its first FAILURES runs fail. RUNS counts them. LEAVES names a
# directory that each run makes, and must not find, AWAITS files that it waits for.
echo run >>"$RUNS"
run=$(wc -l <"$RUNS")
for file in $AWAITS; do
    until [ -e "$file" ]; do sleep 0.02; done
done
echo "running 1 test"
echo "run $run began"
if ! mkdir "${LEAVES:-$RUNS.left.$run}" || [ "$run" -le "$FAILURES" ]; then
    echo "test it_holds ... FAILED"
    echo "failures:"
    echo "run $run broke"
    echo "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out"
    exit 101
fi
echo "test it_holds ... ok"
echo "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"
