# shellcheck shell=bash
# Sourced by scripts/test-docker.sh: an engine to test with, and its end.
#
# An engine that answers is used as it is. Else Debian's docker.io is installed and a dockerd
# started, as root, with a socket of its own and its images kept in the cache.

# install_missing: what is not here of the programs that the tests run.
install_missing() {
	local packages=()
	docker info >/dev/null 2>&1 || command -v dockerd >/dev/null || packages+=(docker.io)
	docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || packages+=(docker-compose)
	command -v tc >/dev/null || packages+=(iproute2)
	((${#packages[@]} == 0)) || apt_install "${packages[@]}" ||
		die "these must be installed, as root: ${packages[*]}"
}

# start_engine: sets DOCKER_HOST, where a dockerd had to be started for it.
start_engine() {
	if docker info >/dev/null 2>&1; then
		say "using the engine that runs: $(docker info --format '{{.ServerVersion}}, {{.Driver}}')"
		return
	fi
	[[ $(id -u) -eq 0 ]] || die "no Docker engine answers, and starting one takes root: start one, or run this as root"
	engine=$(mktemp -d "${TMPDIR:-/tmp}/pyhook-engine.XXXXXX")
	network_before
	mkdir -p "$cache/docker"
	export DOCKER_HOST=unix://$engine/docker.sock
	# Whatever ends this script ends the engine too, and the engine its containers.
	setpriv --pdeathsig TERM dockerd --data-root "$cache/docker/data" --exec-root "$engine/exec" \
		--pidfile "$engine/pid" --host "$DOCKER_HOST" </dev/null >"$engine/log" 2>&1 9>&- &
	dockerd=$!
	local i
	for ((i = 0; i < 120; i++)); do
		if docker info >/dev/null 2>&1; then
			say "started an engine: $(docker info --format '{{.ServerVersion}}, {{.Driver}}'), its data in $cache/docker/data"
			return
		fi
		kill -0 "$dockerd" 2>/dev/null || break
		sleep 0.5
	done
	die "dockerd did not start:"$'\n'"$(tail -n 15 "$engine/log")"
}

# stop_engine: the one that start_engine started, if it did.
stop_engine() {
	[[ -n ${dockerd:-} ]] || return 0
	local i
	say "stopping the engine"
	kill "$dockerd" 2>/dev/null || true
	for ((i = 0; i < 120; i++)); do
		kill -0 "$dockerd" 2>/dev/null || break
		sleep 0.5
	done
	kill -9 "$dockerd" 2>/dev/null || true
	wait "$dockerd" 2>/dev/null || true
	dockerd=
	network_after
	grep -F "$engine/" /proc/self/mounts | cut -d' ' -f2 | xargs -r umount -l || true
	rm -rf "$engine"
}

# dockerd leaves its bridge, its rules and forwarding behind.
network_before() {
	forwarding=$(cat /proc/sys/net/ipv4/ip_forward)
	bridge=$(ip -o link show docker0 2>/dev/null || true)
	iptables-save >"$engine/iptables" 2>/dev/null || true
}

network_after() {
	[[ -n $bridge ]] || ip link delete docker0 2>/dev/null || true
	local table
	for table in filter nat; do
		if grep -q "^\*$table" "$engine/iptables"; then
			continue
		fi
		# There were no rules: there are none again.
		[[ $table == nat ]] || iptables -P FORWARD ACCEPT
		iptables -t "$table" -F && iptables -t "$table" -X
	done
	iptables-restore <"$engine/iptables" || true
	echo "$forwarding" >/proc/sys/net/ipv4/ip_forward
}
