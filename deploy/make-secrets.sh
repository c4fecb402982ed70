#!/bin/sh
# Creates the files that docker-compose.yml mounts as secrets; existing files are kept.
#   deploy/make-secrets.sh [FOLDER]      default FOLDER: deploy/secrets
# clouds.yaml is a template: fill it in or replace it by your own.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
folder=${1:-$here/secrets}

# The folder's mode keeps other users of this machine out. The files are readable by all users, because
# a mounted secret keeps its mode and the user in the container is a different one.
umask 077
mkdir -p "$folder"
chmod 700 "$folder"

# Writes standard input to a file atomically, unless the file exists.
keep() {
    if [ ! -e "$folder/$1" ]; then
        cat >"$folder/.$1.new"
        chmod 444 "$folder/.$1.new"
        mv "$folder/.$1.new" "$folder/$1"
    else
        cat >/dev/null
    fi
}

random_hex() {
    head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n'
}

# printf is a shell builtin: no password becomes an argument of a process.
random_hex | keep redis_password
random_hex | keep postgres_password
printf 'redis://:%s@redis:6379/0' "$(cat "$folder/redis_password")" | keep ims_import_redis_url
printf 'postgresql+psycopg://ims_import:%s@postgres:5432/ims_import' \
    "$(cat "$folder/postgres_password")" | keep ims_import_ledger_url
# A Fernet key is 32 random bytes in URL-safe base64.
head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n' | keep ims_import_secret_key
printf 'admin:%s' "$(random_hex)" | keep ims_import_flower_basic_auth
if [ ! -e "$folder/clouds.yaml" ]; then
    cat >"$folder/clouds.yaml" <<'END'
# Your cloud. Only the worker reads this file. OS_CLOUD names the entry (default: otc).
clouds:
  otc:
    profile: otc
    region_name: eu-de
    auth:
      username: YOUR_USER
      password: YOUR_PASSWORD
      project_name: eu-de
      user_domain_name: OTC-EU-DE-00000000000000000000
      project_domain_name: OTC-EU-DE-00000000000000000000
END
fi
# Run this script again after you replaced the file, so that the worker can read it.
chmod 644 "$folder/clouds.yaml"

echo "The secrets are in $folder. Edit clouds.yaml there and add your cloud." >&2
