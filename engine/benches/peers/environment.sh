# Sourced by the scripts that run peers.

# A folder with what a list of requirements names, made again when the pins change.
environment() {
    local folder=$1 wanted=$2
    cmp -s "$wanted" "$folder/installed.txt" && return
    rm -rf "$folder"
    if ! python3 -m venv "$folder" ||
        ! "$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted"; then
        echo "the peers cannot be installed: Python 3 with venv and PyPI are needed" >&2
        exit 1
    fi
    cp "$wanted" "$folder/installed.txt"
}
