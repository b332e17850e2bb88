# bash completion of FILE. It asks the program itself, and needs no other package.
_FUNCTION() {
    local line=${COMP_LINE:0:COMP_POINT} out word about hint=0 current lead=
    local -a words
    IFS=$' \t' read -ra words <<<"$line"
    [[ $line == *[[:blank:]] ]] && words+=("")
    current=${words[${#words[@]} - 1]}
    COMPREPLY=()
    out=$("${words[0]}" __complete "${words[@]:1}" 2>/dev/null) || return
    # The value in --flag=value is asked for alone; and bash takes what stands behind a colon for a word of its own.
    [[ $current == -*=* ]] && current=${current#*=}
    [[ $current == *:* && $COMP_WORDBREAKS == *:* ]] && lead=${current%:*}:
    while IFS=$'\t' read -r word about; do
        if [[ $word == :* && -z $about && ${word:1} != *[!0-9]* && ${#word} -gt 1 ]]; then
            hint=${word:1}
        elif [[ $word == "$current"* ]]; then
            COMPREPLY+=("${word#"$lead"}")
        fi
    done <<<"$out"
    if ((hint & 2)); then
        compopt -o nospace
    elif ((hint & 16)); then
        compopt -o filenames
        while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -d -- "$current")
    elif ((hint == 0)); then
        compopt -o filenames
        while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$current")
    fi
}
complete -F _FUNCTION FILE
