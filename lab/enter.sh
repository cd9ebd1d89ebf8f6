#!/bin/sh
# Enters a lab host and runs a program there. The cgroups come first: a process that enters the namespaces with its
# old cgroups can't be restored by CRIU. The program ends with whoever started it: a shell is its parent and can be killed alone, but not by
# Ctrl-C, which is the program's to answer.
# Arguments: the host's init, folders of the host's cgroups, "--", program and its arguments.

init=$1
shift
while [ "$1" != -- ]; do
  echo $$ > "$1/cgroup.procs"
  shift
done
shift
exec nsenter --no-fork --target "$init" --mount --uts --ipc --net --pid --cgroup --root -- \
  sh -c 'trap : INT QUIT; "$@"; exit $?' sh env -i \
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/dmigrate/bin HOME=/root LANG=C.UTF-8 \
  NODE_COMPILE_CACHE=/var/cache/compiled ${TERM:+TERM=$TERM} \
  setpriv --pdeathsig TERM "$@"
