//! What a command line says of its program being an MCP server. A hint for people: anybody can write any command line.

/// Programs that run others' code; with `mcp` among their words, they run an MCP server.
const RUNTIMES: [&str; 15] = [
    "bun", "bunx", "deno", "dotnet", "java", "node", "nodejs", "npm", "npx", "php", "pipx", "ruby", "tsx",
    "uv", "uvx",
];
/// Servers and bridges whose names do not have the word `mcp`.
const KNOWN: [&str; 4] = ["fastmcp", "mcpo", "supergateway", "metamcp"];
/// The packages of the protocol's own organisation.
const OFFICIAL: &str = "@modelcontextprotocol/";

/// Why a process is taken for an MCP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    /// A package of `@modelcontextprotocol/`.
    OfficialPackage,
    /// A program that is known to serve MCP.
    KnownProgram,
    /// The program's own name has the word `mcp`.
    Name,
    /// A runtime with the word `mcp` in its command line.
    Runtime,
    /// It answered an `initialize`.
    Answered,
}

impl Hint {
    /// In a table.
    pub fn words(self) -> &'static str {
        match self {
            Self::OfficialPackage => "package of @modelcontextprotocol",
            Self::KnownProgram => "known MCP program",
            Self::Name => "its name says mcp",
            Self::Runtime => "its command line says mcp",
            Self::Answered => "it speaks MCP",
        }
    }
}

/// What the words of a command line say.
pub(super) fn hint(command: &[String]) -> Option<Hint> {
    if command.iter().any(|word| word.contains(OFFICIAL)) {
        return Some(Hint::OfficialPackage);
    }
    let program = command.first().map(|word| file_name(word))?;
    // What a runtime runs stands in its words, the first of which is the runtime itself.
    let is_runtime = RUNTIMES.contains(&program) || program.starts_with("python");
    let names = command.iter().take(if is_runtime { command.len() } else { 1 });
    let names = names.map(|word| stem(file_name(word)));
    if names.into_iter().any(|name| KNOWN.contains(&name)) {
        return Some(Hint::KnownProgram);
    }
    if is_runtime {
        return command.iter().any(|word| has_word(word)).then_some(Hint::Runtime);
    }
    has_word(program).then_some(Hint::Name)
}

/// Whether `mcp` stands in a text on its own, or at the beginning or end of a word: `my-mcp`, `mcp_server`, `mcpserver`.
fn has_word(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "mcp" || word == "mcpserver")
}

fn file_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// Without a script's ending, or a package's version.
fn stem(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(name, _version)| name);
    [".js", ".mjs", ".cjs", ".ts", ".py"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(line: &str) -> Option<Hint> {
        hint(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn mcp_servers_are_known_by_how_people_start_them() {
        use Hint::{KnownProgram, Name, OfficialPackage, Runtime};
        for (line, expected) in [
            ("npx -y @modelcontextprotocol/server-filesystem /srv", Some(OfficialPackage)),
            (
                "node /app/node_modules/@modelcontextprotocol/server-everything/dist/index.js",
                Some(OfficialPackage),
            ),
            ("uvx mcp-server-git --repository /srv", Some(Runtime)),
            ("/usr/bin/python3 -m mcp_server_time", Some(Runtime)),
            ("python3.12 /srv/app/mcp/server.py", Some(Runtime)),
            ("node /home/me/my-mcp-server/index.js", Some(Runtime)),
            ("node --enable-source-maps dist/mcp.js", Some(Runtime)),
            ("/usr/local/bin/mcp-server-fetch --port 8000", Some(Name)),
            ("/usr/local/bin/github-mcp-server http", Some(Name)),
            ("mcp-proxy --port 8080", Some(Name)),
            ("fastmcp run server.py", Some(KnownProgram)),
            ("/usr/bin/python3 /usr/bin/fastmcp run server.py", Some(KnownProgram)),
            ("npx -y supergateway --stdio x", Some(KnownProgram)),
            ("node server.js", None),
            ("/usr/sbin/nginx -c /etc/mcp/nginx.conf", None),
            ("/usr/bin/dhcpcd", None),
            ("java -jar app.jar", None),
            ("/usr/sbin/mcpelauncher", None),
            ("", None),
        ] {
            assert_eq!(of(line), expected, "{line}");
        }
        assert_eq!(hint(&[]), None);
    }

    proptest! {
        #[test]
        fn any_command_line_is_read(words in proptest::collection::vec("\\PC{0,20}", 0..6)) {
            let _hint = hint(&words);
        }
    }
}
