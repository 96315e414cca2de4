# What the host's benchmarks share; they source it, with $me, $here and $b (the build's directory) set.
. "$here/../../runtime/bench/lib.sh"

set -- $cpus
[ $# = 2 ] || fail "needs two CPUs: one for the server, one for wrk"
server_cpu=$1 client_cpu=$2
ticks=$(getconf CLK_TCK)

# ---- servers: each start_* sets $pid and $port -----------------------------------------------------

# Waits until the file $1 has a line that sed's script $2 turns into a port.
wait_port() {
    i=0
    while [ $i -lt 100 ]; do
        port=$(sed -n "$2" "$1" 2>/dev/null | head -n 1)
        [ -n "$port" ] && return
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
        i=$((i + 1))
    done
    cat "$1" >&2
    fail "$3 did not start"
}

started() {
    pid=$!
    pids="$pids $pid"
}

start_lunapark() { # $1 app, then options
    : >"$tmp/lunapark.log" # wait_port may be there before the server's shell
    taskset -c "$server_cpu" "$b/lunapark" "$@" --procs 1 --listen 127.0.0.1:0 >/dev/null 2>"$tmp/lunapark.log" &
    started
    wait_port "$tmp/lunapark.log" 's|^lunapark: listening on http://127.0.0.1:\([0-9]*\)$|\1|p' lunapark
}

start_bare() { # $1 file with the answer
    taskset -c "$server_cpu" "$b/host/bench/bare" 0 "$1" >"$tmp/bare.log" 2>&1 &
    started
    wait_port "$tmp/bare.log" 's/^\([0-9][0-9]*\)$/\1/p' bare
}

nginx_module=/usr/lib/nginx/modules/ngx_http_lua_module.so
has_nginx() {
    command -v nginx >/dev/null && [ -e $nginx_module ]
}

# nginx cannot pick a port.
free_port() {
    echo 'local l = assert(require("lunapark.net").listen "127.0.0.1:0") print((l:addr():gsub(".*:", "")))' >"$tmp/port.lua"
    port=$("$b/lunapark" run "$tmp/port.lua") || fail "no port is free"
}

# With over_tls=ssl it speaks HTTPS. $1 its CPUs, $2 its server's directives, $3 those of http, $4 those in front of all
run_nginx() {
    free_port
    mkdir -p "$tmp/nginx"
    cat >"$tmp/nginx.conf" <<END
${4-}
daemon off;
pid $tmp/nginx/pid;
error_log $tmp/nginx/error.log;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path $tmp/nginx/body;
    proxy_temp_path $tmp/nginx/proxy;
    fastcgi_temp_path $tmp/nginx/fastcgi;
    uwsgi_temp_path $tmp/nginx/uwsgi;
    scgi_temp_path $tmp/nginx/scgi;
    ${3-}
    server {
        listen 127.0.0.1:$port ${over_tls-};
        $2
    }
}
END
    taskset -c "$1" nginx -p "$tmp/nginx" -c "$tmp/nginx.conf" 2>"$tmp/nginx.log" &
    started
    i=0
    until curl -sk -o /dev/null "http${over_tls:+s}://127.0.0.1:$port/"; do
        i=$((i + 1))
        if [ $i -gt 50 ] || ! kill -0 "$pid" 2>/dev/null; then
            cat "$tmp/nginx.log" >&2
            fail "nginx did not start"
        fi
        sleep 0.1
    done
}

# One process, whose CPU time is all that nginx takes.
one_nginx="master_process off; worker_processes 1;"

start_nginx() { # with Lua. $1 its locations, $2 what else there is
    run_nginx "$server_cpu" "$1" "default_type \"text/plain; charset=utf-8\"; ${2-}" \
        "load_module /usr/lib/nginx/modules/ndk_http_module.so; load_module $nginx_module; $one_nginx"
}
