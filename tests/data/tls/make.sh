#!/bin/sh
# Makes the certificates of this directory: an authority; a server's and a client's that it signed, one for another name
# and one that is expired; and an authority that signed none of them. For tests only: the keys are public, but for those
# of the authorities, which nobody has any more.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cd "$work"

: >index
echo 0100 >serial
cat >conf <<END
[ca]
default_ca = own
[own]
dir = .
database = index
new_certs_dir = .
serial = serial
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[server]
basicConstraints = CA:FALSE
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[elsewhere]
basicConstraints = CA:FALSE
subjectAltName = DNS:elsewhere.example
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[client]
basicConstraints = CA:FALSE
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
END

request() { # name, subject
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1.key" -out "$1.csr" -subj "/CN=$2"
}

sign() { # name, kind, year of the end, then who signs
    name=$1 kind=$2 end=$3
    shift 3
    openssl ca -batch -notext -config conf -extensions "$kind" -in "$name.csr" -out "$name.crt" \
        -startdate 20000101000000Z -enddate "${end}0101000000Z" "$@"
}

for name in ca other_ca; do
    request "$name" "simplesockets test $name"
    sign "$name" authority 2126 -selfsign -keyfile "$name.key"
    cp "$name.crt" "$here/$name.pem"
done
request server localhost
request expired localhost
request elsewhere elsewhere.example
request client "test client"
sign server server 2126 -cert ca.crt -keyfile ca.key
sign expired server 2001 -cert ca.crt -keyfile ca.key
sign elsewhere elsewhere 2126 -cert ca.crt -keyfile ca.key
sign client client 2126 -cert ca.crt -keyfile ca.key
for name in server expired elsewhere client; do
    cat "$name.crt" "$name.key" >"$here/$name.pem"
done
