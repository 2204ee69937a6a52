#!/usr/bin/env bash
# train.py on two machines (or more), by hand:   bash cluster/two_machines.sh --epochs 10
# (arguments go to train.py; with --backend jax Keras trains on JAX)
# Change the three lines with CHANGE-ME; as they are, this script refuses to run.
HOSTS="CHANGE-ME-1 CHANGE-ME-2"     # names or addresses at which the machines reach each other, on a private network;
                                    # with another user's name for ssh: me@10.0.0.1 me@fd00::2
COURSE="/CHANGE-ME/course"          # this clone with its .venv, at the same place on each of them
RUN_FOLDER="/CHANGE-ME/run"         # a folder that all of them share (NFS, say): checkpoints and the log
#
# Which port?  Any free one from 1024 up; the same on each machine.
# Which way in?  Training on CPUs with TensorFlow needs PORT/tcp; JAX (gloo) and GPUs (NCCL) listen on further ports of
#   their own choice. So let the machines reach each other on all ports, and nobody else reach them: they ask for no
#   password. With ufw, on each machine, for each other one:   sudo ufw allow from OTHER
#   With two clouds' or two homes' routers in between: use a private network over them (WireGuard), never an open port.
# ssh must get in without asking: ssh-copy-id HOST, once. Run this from either machine, or from a third one.
PORT=20111
PROGRAM="$COURSE/cluster/train.py"  # or the file that notebook 06 has written, at the same place on each of them
MOST_ATTEMPTS=4

set -u
case "$HOSTS $COURSE $RUN_FOLDER" in *CHANGE-ME*)
    echo "two_machines.sh: HOSTS, COURSE or RUN_FOLDER still say CHANGE-ME: write your own there" >&2
    exit 2 ;;
esac
if [ -z "$HOSTS" ] || [ -z "$COURSE" ] || [ -z "$RUN_FOLDER" ]; then
    echo "two_machines.sh: HOSTS, COURSE or RUN_FOLDER is empty: write your own there" >&2
    exit 2
fi

read -ra hosts <<< "$HOSTS"
addresses=
for host in "${hosts[@]}"; do
    name=${host#*@}  # less the user's name, which is for ssh alone
    case "$name" in *:*) name="[$name]" ;; esac  # an IPv6 address
    addresses+=", \"$name:$PORT\""
done
tf_config() { echo "{\"cluster\": {\"worker\": [${addresses:2}]}, \"task\": {\"type\": \"worker\", \"index\": $1}}"; }
# %q: spaces and quotes get through the shell at the other end.
python="RUN_FOLDER=$(printf %q "$RUN_FOLDER") exec$(printf ' %q' "$COURSE/.venv/bin/python" "$PROGRAM" "$@")"

workers=()
stop() { [ ${#workers[@]} -eq 0 ] || kill "${workers[@]}" 2> /dev/null; wait; }
trap 'stop; exit 130' INT TERM
for ((attempt = 0; attempt < MOST_ATTEMPTS; attempt++)); do
    workers=()
    started=$SECONDS
    for index in "${!hosts[@]}"; do  # -tt: when this end of ssh is killed, the worker at the other end is, too
        ssh -tt -o BatchMode=yes "${hosts[index]}" \
            "export TF_CONFIG='$(tf_config "$index")'; $python" < /dev/null &
        workers+=($!)
    done
    failed=0
    for _ in "${workers[@]}"; do wait -n || { failed=$?; break; }; done  # one that fails ends all of them
    [ $failed -eq 0 ] && exit 0
    stop
    [ $failed -eq 2 ] && exit 2  # train.py has said what to change
    if [ $failed -eq 255 ] && [ $((SECONDS - started)) -lt 10 ]; then  # 255 is ssh's own
        echo "two_machines.sh: ssh does not reach a machine, and has said why: try ssh HOST true for each of $HOSTS" >&2
        exit 2
    fi
    echo "attempt $attempt failed: all start again from the last checkpoint"
done
exit 1
