//! The command line as it may be written into an annotation that others can read.

/// Longest text that is kept, in characters: an annotation is for people.
const LONGEST: usize = 512;
/// Flags whose values are secrets or may hold some.
const SECRET_FLAGS: [&str; 4] = ["--token", "--password", "--patch", "--auth"];

/// Joins `args` without what may be secret: values of secret flags, user information in URLs, and
/// everything after `--`, which is another program's command line.
pub fn redacted<S: AsRef<str>>(args: impl IntoIterator<Item = S>) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut hide_next = false;
    for arg in args {
        let arg = arg.as_ref();
        if arg == "--" {
            words.push("-- ...".to_owned());
            break;
        }
        if std::mem::take(&mut hide_next) {
            words.push("...".to_owned());
            continue;
        }
        match arg.split_once('=') {
            Some((flag, _)) if SECRET_FLAGS.contains(&flag) => words.push(format!("{flag}=...")),
            _ => {
                hide_next = SECRET_FLAGS.contains(&arg);
                words.push(without_user_information(arg));
            }
        }
    }
    let text = words.join(" ");
    if text.chars().count() <= LONGEST {
        return text;
    }
    let cut: String = text.chars().take(LONGEST).collect();
    format!("{cut}...")
}

/// `https://user:password@host` without what stands before the `@`.
fn without_user_information(arg: &str) -> String {
    let Some((before, rest)) = arg.split_once("://") else {
        return arg.to_owned();
    };
    let authority_end = rest.find('/').unwrap_or(rest.len());
    match rest[..authority_end].rfind('@') {
        Some(at) => format!("{before}://...@{}", &rest[at + 1..]),
        None => arg.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out() {
        for (args, text) in [
            (
                vec!["kubectl-tunnel", "expose", "api", "80:1234"],
                "kubectl-tunnel expose api 80:1234",
            ),
            (vec!["proxy", "--token", "abc", "-v=2"], "proxy --token ... -v=2"),
            (vec!["proxy", "--token=abc"], "proxy --token=..."),
            (
                vec!["proxy", "-s", "https://me:pw@host:1/x@y"],
                "proxy -s https://...@host:1/x@y",
            ),
            (vec!["proxy", "--patch", "{\"spec\":{}}"], "proxy --patch ..."),
            (vec!["run", "--", "psql", "password=x"], "run -- ..."),
        ] {
            assert_eq!(redacted(args), text);
        }
    }

    #[test]
    fn long_lines_are_cut() {
        let text = redacted(std::iter::repeat_n("word", 1000));
        assert_eq!(text.chars().count(), LONGEST + 3);
    }
}
