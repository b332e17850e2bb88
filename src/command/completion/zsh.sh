#compdef FILE
# zsh completion of FILE. It asks the program itself.
_FUNCTION() {
    local line word about hint=0
    local -a asked found space
    asked=("${(@)words[2,CURRENT]}")
    (( CURRENT > 1 )) || return 1
    for line in "${(@f)$("${words[1]}" __complete "${(@)asked}" 2>/dev/null)}"; do
        if [[ $line == :<-> ]]; then
            hint=${line#:}
        elif [[ -n $line ]]; then
            word=${line%%$'\t'*}
            about=${line#*$'\t'}
            [[ $line == *$'\t'* && -n $about ]] || about=
            found+=("${word//:/\\:}${about:+:$about}")
        fi
    done
    # The value in --flag=value is asked for alone.
    compset -P '-*='
    (( hint & 2 )) && space=(-S '')
    if (( hint & 16 )); then
        _path_files -/
    elif (( hint == 0 )); then
        _files
    else
        _describe -V values found "${(@)space}"
    fi
}
if [[ $funcstack[1] == _FUNCTION ]]; then
    _FUNCTION "$@"
else
    compdef _FUNCTION FILE
fi
