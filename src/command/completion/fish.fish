# fish completion of FILE. It asks the program itself.
function __FUNCTION_complete
    set -l words (commandline --tokenize-raw --cut-at-cursor 2>/dev/null; or commandline --tokenize --cut-at-cursor)
    set -l current (commandline --current-token --cut-at-cursor)
    set -l lead (string match --regex -- '^-.*?=' "$current"; or echo)
    set -l answer ($words[1] __complete $words[2..] "$current" 2>/dev/null)
    set -l hint 0
    for line in $answer
        if string match --quiet --regex -- '^:[0-9]+$' $line
            set hint (string sub --start 2 -- $line)
        else
            echo -- "$lead$line"
        end
    end
    set -l path (string replace --regex -- '^-.*?=' '' "$current")
    if test $hint -eq 16
        printf '%s\n' $lead(__fish_complete_directories "$path")
    else if test $hint -eq 0
        printf '%s\n' $lead(__fish_complete_path "$path")
    end
end
complete --command FILE --no-files --arguments '(__FUNCTION_complete)'
