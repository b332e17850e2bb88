#!/usr/bin/env bash
# The main job of kubectl tunnel, end to end: `proxy`, `expose` and `forward` for real, each command with its answer, and
# nothing left at the end. Called by `make demo`.
#
#   tests/demo.sh [PLUGIN [PLAYGROUND]]
#
# Without KUBECONFIG it starts the playground, a small API server on this machine. With KUBECONFIG it uses that
# cluster and the namespace of its current context: there it needs kubectl and makes a pod and a Service
# `demo-web-...` of its own from the image DEMO_IMAGE (default busybox), or uses what DEMO_TARGET names
# (a Service that speaks HTTP, as NAME or NAME:PORT).
#
# DEMO_PLUGIN_FLAGS: more flags for the three, such as --agent-binary PATH.
# Exits with 1 if anything was not as it should be.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
plugin=$(realpath "${1:-target/release/kubectl-tunnel}") || exit 1
playground=$(realpath "${2:-target/debug/playground}") || exit 1
read -ra plugin_flags <<<"${DEMO_PLUGIN_FLAGS:-}"
work=$(mktemp -d)
failures=0
cluster=playground
target_made=
declare -A pids=()

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    failures=$((failures + 1))
}

# Starts a program in the background under a name; its output goes to files of that name. Its stdin is a pipe
# that this script alone holds, so that the playground ends with the script however that ends.
start() {
    local name=$1
    shift
    # bash ignores SIGINT in background jobs; --default-signal gives it back to the plugin.
    env --default-signal=INT "$@" <&"$lifeline" {lifeline}>&- >"$work/$name.out" 2>"$work/$name.err" &
    pids[$name]=$!
}

# Waits until a ready file is there, and prints it.
await() {
    local name=$1
    for _ in $(seq 600); do
        if [ -s "$work/$name.ready" ]; then
            cat "$work/$name.ready"
            return 0
        fi
        kill -0 "${pids[$name]}" 2>/dev/null || break
        sleep 0.1
    done
    printf '%s did not become ready; it said:\n' "$name" >&2
    cat "$work/$name.out" "$work/$name.err" >&2
    return 1
}

# Ends a program by a signal, after 20 s by SIGKILL, and leaves its exit code in $ended.
end() {
    local name=$1 signal=$2 pid=${pids[$1]:-}
    [ -n "$pid" ] || return 0
    unset "pids[$name]"
    kill "-$signal" "$pid" 2>/dev/null
    for _ in $(seq 200); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null
    wait "$pid"
    ended=$?
}

finish() {
    for name in "${!pids[@]}"; do
        [ "$name" = playground ] || end "$name" TERM
    done
    if [ -n "$target_made" ]; then
        kubectl delete --ignore-not-found --wait=false "pod/$target_made" "service/$target_made" >/dev/null
    fi
    end playground TERM
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

# One value of a JSON line: the first "NAME":VALUE.
value() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p" | head -n 1; }

# Shows a command, runs it, shows its answer, and checks that the answer has a text in it.
show() {
    local expected=$1 answer
    shift
    printf '\n$ %s\n' "$(printf '%q ' "$@" | sed "s|$work/||g; s|$playground|playground|g; s|$plugin|kubectl tunnel|g")"
    answer=$("$@" 2>&1)
    printf '%s\n' "$answer" | sed -n '1,12{s/^/  /;p}'
    grep -qF -- "$expected" <<<"$answer" || fail "expected \"$expected\" in the answer"
}

# curl where there is one; the playground's own small fetch otherwise.
if command -v curl >/dev/null; then
    plain=(curl -sS --noproxy '*' --max-time 20)
    through_http=(curl -sS --noproxy '' --max-time 20 -x)
    through_tunnel=(curl -sS --noproxy '' --max-time 20 --proxytunnel -x)
    through_socks=(curl -sS --noproxy '' --max-time 20 --socks5-hostname)
    status_through=(curl -sS --noproxy '' --max-time 20 -o /dev/null -w '%{http_code}\n' -x)
    with_header=(-H)
else
    plain=("$playground" fetch --timeout 20)
    through_http=("$playground" fetch --timeout 20 --proxy)
    through_tunnel=("$playground" fetch --timeout 20 --connect --proxy)
    through_socks=("$playground" fetch --timeout 20 --socks5)
    status_through=("$playground" fetch --timeout 20 --status --proxy)
    with_header=(--header)
fi

[ -x "$plugin" ] || { echo "no plugin at $plugin: run make build" >&2; exit 1; }
[ -x "$playground" ] || { echo "no playground at $playground: run cargo build -p tunnel-playground" >&2; exit 1; }
mkfifo "$work/lifeline" && exec {lifeline}<>"$work/lifeline" || exit 1

at=
if [ -z "${KUBECONFIG:-}" ]; then
    say 'A small API server on this machine plays the cluster (set KUBECONFIG to use a real one).'
    export KUBECONFIG=$work/kubeconfig
    start playground "$playground" --kubeconfig "$KUBECONFIG" --ready-file "$work/playground.ready"
    ready=$(await playground) || exit 1
    # A Service port of the playground is a port of this machine: 80 may need a right or be taken.
    port=$(value webPort <<<"$ready")
    [ "$port" = 80 ] || at=:$port
    api=http://$(value address <<<"$ready")
    target=web$at
    full=web.dev.svc.cluster.local$at
    expected='hello from web'
else
    cluster=real
    command -v kubectl >/dev/null || { echo 'a demo on a real cluster needs kubectl' >&2; exit 1; }
    namespace=$(kubectl config view --minify -o 'jsonpath={..namespace}')
    namespace=${namespace:-default}
    say "The cluster of $KUBECONFIG, namespace $namespace."
    expected=
    if [ -z "${DEMO_TARGET:-}" ]; then
        target=demo-web-$RANDOM
        target_made=$target
        expected='hello from the cluster'
        kubectl apply -f - <<EOF || exit 1
apiVersion: v1
kind: Pod
metadata: {name: $target, labels: {app: $target}}
spec:
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: web
    image: ${DEMO_IMAGE:-busybox}
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "mkdir /tmp/www && echo '$expected' >/tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www"]
    resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 100m, memory: 64Mi}}
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
---
apiVersion: v1
kind: Service
metadata: {name: $target}
spec: {selector: {app: $target}, ports: [{port: 80, targetPort: 8080}]}
EOF
        kubectl wait --for=condition=Ready --timeout=60s "pod/$target" || exit 1
    else
        target=$DEMO_TARGET
    fi
    case $target in
    *:*) full=${target%%:*}.$namespace.svc:${target##*:} ;;
    *) full=$target.$namespace.svc ;;
    esac
fi

say '1. One local port reaches everything in the cluster by name.'
printf '\n$ kubectl tunnel proxy --listen 127.0.0.1:0\n'
start proxy "$plugin" proxy "${plugin_flags[@]}" --listen 127.0.0.1:0 --ready-file "$work/proxy.ready"
ready=$(await proxy) || { fail 'proxy did not start'; exit 1; }
sed 's/^/  /' "$work/proxy.out" "$work/proxy.err"
proxy=$(value address <<<"$ready")
sessions=$(value session <<<"$ready")
show "$expected" "${through_http[@]}" "$proxy" "http://$target/"
show "$expected" "${through_tunnel[@]}" "$proxy" "http://$full/"
show "$expected" "${through_socks[@]}" "$proxy" "http://$full/"
show "$expected" "${plain[@]}" "${with_header[@]}" "Host: $target" "http://$proxy/"
say 'A name that is not there, told in the protocol of the caller:'
show 502 "${status_through[@]}" "$proxy" http://no-such-service/

say '2. A Service in the cluster reaches a program on this machine.'
start laptop "$playground" web --ready-file "$work/laptop.ready" --greeting 'the laptop'
ready=$(await laptop) || exit 1
local_port=$(value port <<<"$ready")
exposed=demo-$RANDOM
port=${at:-:80}
port=${port#:}
printf '\n$ kubectl tunnel expose %s %s:%s\n' "$exposed" "$port" "$local_port"
start expose "$plugin" expose "${plugin_flags[@]}" "$exposed" "$port:$local_port" --ready-file "$work/expose.ready"
ready=$(await expose) || { fail 'expose did not start'; exit 1; }
sessions+=,$(value session <<<"$ready")
sed 's/^/  /' "$work/expose.out" "$work/expose.err"
say 'The caller is another pod: the agent of the first session, asked through its proxy.'
show 'hello from the laptop' "${through_http[@]}" "$proxy" "http://$exposed$at/from/the/cluster"

say '3. A local port for one target, without an agent until somebody connects.'
service=svc/${target%%:*}
case $target in *:*) remote=${target##*:} ;; *) remote=80 ;; esac
printf '\n$ kubectl tunnel forward %s :%s --address 127.0.0.1 --on-demand\n' "$service" "$remote"
start forward "$plugin" forward "${plugin_flags[@]}" "$service" ":$remote" --address 127.0.0.1 --on-demand \
    --ready-file "$work/forward.ready"
ready=$(await forward) || { fail 'forward did not start'; exit 1; }
sed 's/^/  /' "$work/forward.out" "$work/forward.err"
show "$expected" "${plain[@]}" "http://$(value address <<<"$ready")/"
sessions+=,$(value session <"$work/forward.ready")

say '4. Ctrl-C: all end, and nothing is left.'
for name in forward expose proxy; do
    end "$name" INT
    printf '%s ended with exit code %s\n' "$name" "$ended"
    [ "$ended" = 0 ] || { fail "$name ended with $ended"; cat "$work/$name.err" >&2; }
done
show '"sessions":' "$plugin" cleanup --dry-run -o json
label="app.kubernetes.io/instance in ($sessions)"
if [ "$cluster" = playground ]; then
    for path in apis/batch/v1/namespaces/dev/jobs api/v1/namespaces/dev/{pods,configmaps,services}; do
        show '"items":[]' "$playground" fetch --header 'Authorization: Bearer playground-developer' \
            "$api/$path?labelSelector=${label// /%20}"
    done
else
    show 'No resources found' kubectl get jobs,pods,configmaps,services -l "$label"
fi

if [ "$failures" -gt 0 ]; then
    say "$failures of the steps failed"
    exit 1
fi
say 'All as it should be.'
