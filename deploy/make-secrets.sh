#!/bin/sh
# Makes the files that docker-compose.yml gives its services as secrets; what exists stays as it is.
#   deploy/make-secrets.sh [FOLDER]      without FOLDER: deploy/secrets
# clouds.yaml comes as a form to fill in, or put your own in its place.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
folder=${1:-$here/secrets}

# The folder keeps other users of this machine out. The files themselves can be read by all,
# because in a container a secret has the mode it has here and its reader is another user.
umask 077
mkdir -p "$folder"
chmod 700 "$folder"

# Writes standard input to a file that is there as a whole or not at all.
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

# printf and echo are the shell's own: no password becomes an argument of a program.
random_hex | keep redis_password
random_hex | keep postgres_password
printf 'redis://:%s@redis:6379/0' "$(cat "$folder/redis_password")" | keep ims_import_redis_url
printf 'postgresql+psycopg://ims_import:%s@postgres:5432/ims_import' \
    "$(cat "$folder/postgres_password")" | keep ims_import_ledger_url
# A Fernet key is 32 random bytes in the URL's kind of base64.
head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n' | keep ims_import_secret_key
printf 'admin:%s' "$(random_hex)" | keep ims_import_flower_basic_auth
if [ ! -e "$folder/clouds.yaml" ]; then
    cat >"$folder/clouds.yaml" <<'END'
# Your own: the worker reads it, and nobody else does. OS_CLOUD names the entry (default: otc).
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
# Yours to edit or replace; run this again if the worker may not read what you put here.
chmod 644 "$folder/clouds.yaml"

echo "The secrets are in $folder; clouds.yaml there has to name your cloud." >&2
