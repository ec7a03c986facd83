//! Makes secrets of every kind and plants them in code, settings and prose, from a seed. Nothing here is a real secret, and
//! none stands in the source as a whole.

use eyas_data::secrets::Kind;

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn text(&mut self, alphabet: &str, length: usize) -> String {
        (0..length).map(|_| self.pick(alphabet.as_bytes()) as char).collect()
    }

    fn hex(&mut self, length: usize) -> String {
        self.text("0123456789abcdef", length)
    }

    fn alnum(&mut self, length: usize) -> String {
        self.text(ALNUM, length)
    }

    /// Characters of base64url.
    fn word(&mut self, length: usize) -> String {
        self.text(&format!("{ALNUM}_-"), length)
    }

    fn base64(&mut self, length: usize) -> String {
        self.text(&format!("{ALNUM}+/"), length)
    }

    fn uuid(&mut self) -> String {
        [8, 4, 4, 4, 12].map(|length| self.hex(length)).join("-")
    }
}

const ALNUM: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const DIGITS: &str = "0123456789";
const WORDS: [&str; 12] = [
    "sunshine", "dragon", "monkey", "winter", "falcon", "coffee", "purple", "thunder", "guitar", "pepper",
    "october", "london",
];

/// A text with a secret in it.
pub(super) struct Planted {
    pub(super) text: String,
    pub(super) secret: String,
}

/// Lines that hold a token of any kind.
const ANY: [&str; 26] = [
    "client = Client(\"{}\")",
    "    api = connect(key='{}', timeout=3)",
    "# was {} until June",
    "const c = new Client('{}');",
    "    let client = Client::new(\"{}\");",
    "\tc := NewClient(\"{}\")",
    "  value: {}",
    "  - {}",
    "FOO={}",
    "export FOO={}",
    "  \"value\": \"{}\",",
    "value = \"{}\"",
    "ENV FOO={}",
    "#define VALUE \"{}\"",
    "INSERT INTO t VALUES ('{}', 1);",
    "<value>{}</value>",
    "// got {} from the console",
    "{}",
    "Run it with `{}`.",
    "* @param {}",
    "+    key=\"{}\"",
    "-{}",
    "print(\"first line\\n{}\\n\")",
    "curl -H \"X-Key: {}\" https://api.acme.io/v1",
    "    return \"{}\"",
    "Authorization: Bearer {}",
];
/// Assignments to a name.
const NAMED: [&str; 30] = [
    "@ = \"{}\"",
    "    @ = '{}'",
    "connect(host, @=\"{}\", port=5)",
    "const @ = '{}';",
    "  @: '{}',",
    "  \"@\": \"{}\",",
    "@: \"{}\"",
    "    private static final String @ = \"{}\";",
    "\t@ := \"{}\"",
    "pub const @: &str = \"{}\";",
    "  let @: string = \"{}\";",
    "$@ = '{}';",
    "    '@' => '{}',",
    "define('@', '{}');",
    "<@>{}</@>",
    "#define @ \"{}\"",
    "if @ == \"{}\":",
    "os.environ[\"@\"] = \"{}\"",
    "var @ = @\"{}\";",
    "    self.@ = b'{}'",
    "# @ = \"{}\"",
    "  <add key=\"x\" @=\"{}\" />",
    "echo '{\\\"@\\\": \\\"{}\\\"}'",
    "@=\"{}\"",
    "export @='{}'",
    "@={}",
    "export @={}",
    "ENV @={}",
    "config['@'] = '{}'",
    "var @ string = \"{}\"",
];

/// A secret of `kind`, planted.
pub(super) fn plant(kind: Kind, random: &mut Random) -> Planted {
    let secret = make(kind, random);
    let template = match kind {
        Kind::PrivateKey => return private_key(random),
        Kind::Password => named(
            random,
            &["password", "DB_PASSWORD", "dbPassword", "passwd", "smtp_pass", "MYSQL_PWD", "admin_password"],
        ),
        Kind::Secret => named(
            random,
            &[
                "client_secret",
                "API_KEY",
                "apiKey",
                "auth_token",
                "accessToken",
                "SECRET_KEY",
                "jwtSecret",
                "webhook_secret",
                "x-api-key",
            ],
        ),
        Kind::AwsSecretKey => named(
            random,
            &["aws_secret_access_key", "AWS_SECRET_ACCESS_KEY", "awsSecretKey", "secretAccessKey"],
        ),
        Kind::HerokuKey if secret.len() == 36 => named(random, &["HEROKU_API_KEY", "heroku_api_key"]),
        Kind::TwilioKey if secret.len() == 32 => named(random, &["TWILIO_AUTH_TOKEN", "twilio_auth_token"]),
        Kind::AzureKey => azure(random, &secret),
        Kind::SlackWebhook => "hook = \"https://hooks.slack.com/services/{}\"".into(),
        Kind::DiscordWebhook => format!("https://discord.com/api/webhooks/{}/{{}}", random.text(DIGITS, 18)),
        Kind::UrlPassword => random
            .pick(&[
                "DATABASE_URL=postgres://app:{}@db.acme.io:5432/app",
                "url = \"mysql://root:{}@10.0.0.5/shop\"",
                "  broker: amqp://worker:{}@queue:5672//",
                "redis = Redis.from_url('redis://:{}@cache:6379/0')",
                "git clone https://jane:{}@git.acme.io/team/app.git",
                "mongodb+srv://app:{}@cluster0.ab1cd.mongodb.net/test",
                "    \"proxy\": \"http://jane:{}@proxy:3128\"",
                "# see ftp://upload:{}@files.acme.io/",
            ])
            .into(),
        Kind::BasicAuthorization => random
            .pick(&[
                "Authorization: Basic {}",
                "headers = {'Authorization': 'Basic {}'}",
                "-H \"authorization: basic {}\"",
            ])
            .into(),
        Kind::BearerAuthorization => random
            .pick(&[
                "Authorization: Bearer {}",
                "'Authorization': 'Bearer {}',",
                "req.Header.Set(\"Authorization\", \"Bearer {}\")",
                "curl -H \"Authorization: token {}\" https://api.acme.io",
            ])
            .into(),
        Kind::Email => random
            .pick(&[
                "__author__ = \"Jane Roe <{}>\"",
                "# Contact: {}",
                "author_email='{}',",
                "  \"email\": \"{}\"",
                "Signed-off-by: Jane Roe <{}>",
                "[mail](mailto:{})",
                " * @author Jane Roe ({})",
                "authors = [\"Jane Roe <{}>\"]",
                "{}",
                "Ask {}, or {}.",
                "user@10.0.0.1 and {};",
            ])
            .into(),
        _ => random.pick(&ANY).to_owned(),
    };
    let line = template.replace("{}", &secret);
    Planted { text: among_code(random, &line), secret }
}

fn named(random: &mut Random, names: &[&str]) -> String {
    let name = random.pick(names);
    random.pick(&NAMED).replace("@\"{}\"", "\u{1}").replace('@', name).replace('\u{1}', "@\"{}\"")
}

fn azure(random: &mut Random, secret: &str) -> String {
    match secret.len() {
        88 => random.pick(&[
            "DefaultEndpointsProtocol=https;AccountName=acme;AccountKey={};EndpointSuffix=core.windows.net",
            "account_key = \"{}\"",
        ]),
        44 => "Endpoint=sb://acme.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey={}",
        40 => "client_secret = \"{}\"",
        _ => "https://acme.blob.core.windows.net/c/b?sv=2022-11-02&se=2030-01-01&sr=b&sig={}",
    }
    .to_owned()
}

/// A line with code before it, after it, both or neither.
fn among_code(random: &mut Random, line: &str) -> String {
    const CODE: [&str; 6] = [
        "def main(arguments):\n    return run(arguments.path)\n",
        "fn add(a: u32, b: u32) -> u32 {\n    a + b\n}\n",
        "for (let i = 0; i < n; i++) {\n  total += values[i];\n}\n",
        "name: build\nsteps:\n  - run: make all\n",
        "// Größe: 3 µm\n",
        "\n\n",
    ];
    let (before, after) = (random.pick(&CODE), random.pick(&CODE));
    match random.below(4) {
        0 => line.to_owned(),
        1 => format!("{before}{line}"),
        2 => format!("{line}\n{after}"),
        _ => format!("{before}{line}\r\n{after}"),
    }
}

fn private_key(random: &mut Random) -> Planted {
    let label = random.pick(&[
        "RSA PRIVATE KEY",
        "PRIVATE KEY",
        "EC PRIVATE KEY",
        "OPENSSH PRIVATE KEY",
        "DSA PRIVATE KEY",
        "ENCRYPTED PRIVATE KEY",
        "PGP PRIVATE KEY BLOCK",
    ]);
    let num_lines = 3 + random.below(20);
    let lines: Vec<String> = (0..num_lines).map(|_| random.base64(64)).collect();
    let last = format!("{}=", random.base64(23));
    let form = random.pick(&["{}\n", "    {}\n", "\"{}\\n\"\n", "  \"{}\\n\" +\n", "# {}\n", "{}\\n"]);
    let text: String = [&format!("-----BEGIN {label}-----")]
        .into_iter()
        .chain(&lines)
        .chain([&last, &format!("-----END {label}-----")])
        .map(|line| form.replace("{}", line))
        .collect();
    Planted {
        text: among_code(random, &text),
        secret: random.pick(&[&lines[0], &lines[num_lines - 1], &last]).clone(),
    }
}

fn password(random: &mut Random) -> String {
    let word = random.pick(&WORDS);
    let capital = format!("{}{}", word[..1].to_uppercase(), &word[1..]);
    match random.below(6) {
        0 => format!("{capital}{}!", 1990 + random.below(40)),
        1 => format!("{word}{}{}", random.pick(&WORDS), 10 + random.below(90)),
        2 => format!("{}9", random.alnum(11)),
        3 => format!("{}7#", random.text(&format!("{ALNUM}!#$%&*+-=?^_"), 14).replace("${", "")),
        4 => format!("{word}-{}-{}", random.pick(&WORDS), random.below(1000)),
        _ => format!("{}{}", capital.replace('o', "0").replace('e', "3"), random.text("!#%&*", 2)),
    }
}

#[rustfmt::skip]
fn make(kind: Kind, r: &mut Random) -> String {
    let upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let lower = "abcdefghijklmnopqrstuvwxyz0123456789";
    match kind {
        Kind::PrivateKey => String::new(),
        Kind::AgeKey => format!("AGE-SECRET-KEY-1{}", r.text("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58)),
        Kind::AwsAccessKeyId => format!("{}{}", r.pick(&["AKIA", "ASIA"]), r.text(upper, 16)),
        Kind::AwsSecretKey => r.base64(40),
        Kind::GithubToken => match r.below(2) {
            0 => format!("{}{}", r.pick(&["ghp_", "gho_", "ghu_", "ghs_", "ghr_"]), r.alnum(36)),
            _ => format!("github_pat_{}_{}", r.alnum(22), r.alnum(59)),
        },
        Kind::GitlabToken => format!("{}{}", r.pick(&["glpat-", "gldt-", "glrt-", "glcbt-", "glsoat-"]), r.word(20)),
        Kind::AtlassianToken => match r.below(2) {
            0 => format!("ATATT3xFfGF0{}={}", r.word(170), r.hex(8).to_uppercase()).split('=').next().unwrap_or("").to_owned(),
            _ => format!("ATBB{}", r.alnum(32)),
        },
        Kind::SlackToken => match r.below(2) {
            0 => format!("xoxb-{}-{}-{}", r.text(DIGITS, 12), r.text(DIGITS, 12), r.alnum(24)),
            _ => format!("xapp-1-A{}-{}-{}", r.text(DIGITS, 10), r.text(DIGITS, 12), r.hex(64)),
        },
        Kind::SlackWebhook => format!("T{}/B{}/{}", r.text(upper, 8), r.text(upper, 10), r.alnum(24)),
        Kind::DiscordToken => format!("{}{}.{}.{}", r.pick(&["MT", "Nz", "OD"]), r.alnum(24), r.alnum(6), r.word(38)),
        Kind::DiscordWebhook => r.word(68),
        Kind::TelegramToken => format!("1{}:AA{}", r.text(DIGITS, 9), r.word(33)),
        Kind::StripeKey => format!("{}{}", r.pick(&["sk_live_", "sk_test_", "rk_live_"]), r.alnum(24)),
        Kind::SquareToken => match r.below(2) { 0 => format!("sq0atp-{}", r.word(22)), _ => format!("sq0csp-{}", r.word(43)) },
        Kind::ShopifyToken => format!("{}{}", r.pick(&["shpat_", "shpca_", "shpss_"]), r.hex(32)),
        Kind::GoogleApiKey => format!("AIza{}", r.word(35)),
        Kind::GoogleOauth => match r.below(3) {
            0 => format!("GOCSPX-{}", r.word(28)),
            1 => format!("ya29.{}", r.word(120)),
            _ => format!("1//0{}", r.word(60)),
        },
        Kind::AzureKey => match r.below(4) {
            0 => format!("{}==", r.base64(86)),
            1 => format!("{}=", r.base64(43)),
            2 => format!("{}8Q~{}", r.alnum(3), r.alnum(34)),
            _ => format!("{}%3D", r.base64(43).replace('+', "%2B").replace('/', "%2F")),
        },
        Kind::NpmToken => format!("npm_{}", r.alnum(36)),
        Kind::PypiToken => format!("pypi-AgEIcHlwaS5vcmc{}", r.word(120)),
        Kind::RubygemsToken => format!("rubygems_{}", r.hex(48)),
        Kind::CratesToken => format!("cio{}", r.alnum(32)),
        Kind::NugetKey => format!("oy2{}", r.text(lower, 43)),
        Kind::DockerToken => format!("dckr_pat_{}", r.word(27)),
        Kind::HuggingFaceToken => format!("hf_{}", r.text(&ALNUM[..52], 34)),
        Kind::AnthropicKey => format!("sk-ant-api03-{}AA", r.word(93)),
        Kind::OpenaiKey => match r.below(2) {
            0 => format!("sk-{}T3BlbkFJ{}", r.alnum(20), r.alnum(20)),
            _ => format!("sk-proj-{}", r.word(120)),
        },
        Kind::ReplicateToken => format!("r8_{}", r.alnum(37)),
        Kind::ModelServiceKey => match r.below(2) { 0 => format!("gsk_{}", r.alnum(52)), _ => format!("xai-{}", r.alnum(80)) },
        Kind::TwilioKey => match r.below(3) { 0 => r.hex(32), 1 => format!("SK{}", r.hex(32)), _ => format!("AC{}", r.hex(32)) },
        Kind::SendgridKey => format!("SG.{}.{}", r.word(22), r.word(43)),
        Kind::MailgunKey => match r.below(2) { 0 => format!("key-{}", r.hex(32)), _ => format!("{}-{}-{}", r.hex(32), r.hex(8), r.hex(8)) },
        Kind::MailchimpKey => format!("{}-us{}", r.hex(32), 1 + r.below(21)),
        Kind::BrevoKey => format!("xkeysib-{}-{}", r.hex(64), r.alnum(16)),
        Kind::HerokuKey => match r.below(2) { 0 => r.uuid(), _ => format!("HRKU-{}", r.uuid()) },
        Kind::DigitaloceanToken => format!("dop_v1_{}", r.hex(64)),
        Kind::AlibabaKey => format!("LTAI{}", r.alnum(20)),
        Kind::TencentKey => format!("AKID{}", r.alnum(32)),
        Kind::DatabricksToken => format!("dapi{}", r.hex(32)),
        Kind::HashicorpToken => match r.below(2) { 0 => format!("hvs.{}", r.word(90)), _ => format!("atlasv1.{}", r.alnum(67)) },
        Kind::PulumiToken => format!("pul-{}", r.hex(40)),
        Kind::DopplerToken => format!("dp.pt.{}", r.alnum(43)),
        Kind::GrafanaToken => format!("glsa_{}_{}", r.alnum(32), r.hex(8)),
        Kind::NewRelicKey => format!("NRAK-{}", r.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", 27)),
        Kind::SentryToken => format!("sntryu_{}", r.hex(64)),
        Kind::DynatraceToken => format!("dt0c01.{}.{}", r.text(upper, 24), r.text(upper, 64)),
        Kind::PlanetscaleToken => format!("pscale_tkn_{}", r.word(43)),
        Kind::SupabaseKey => format!("sbp_{}", r.hex(40)),
        Kind::LinearKey => format!("lin_api_{}", r.alnum(40)),
        Kind::PostmanKey => format!("PMAK-{}-{}", r.hex(24), r.hex(34)),
        Kind::NotionToken => format!("ntn_{}", r.alnum(46)),
        Kind::AirtableToken => format!("pat{}.{}", r.alnum(14), r.hex(64)),
        Kind::FigmaToken => format!("figd_{}", r.word(40)),
        Kind::DropboxToken => format!("sl.{}", r.word(140)),
        Kind::FacebookToken => format!("EAA{}", r.alnum(180)),
        Kind::MapboxToken => format!("sk.eyJ{}.{}", r.alnum(70), r.word(22)),
        Kind::ServiceToken => match r.below(3) {
            0 => format!("nfp_{}", r.alnum(36)),
            1 => format!("bkua_{}", r.hex(40)),
            _ => format!("shippo_live_{}", r.hex(40)),
        },
        Kind::Jwt => format!("eyJhbGciOiJIUzI1NiJ9.eyJ{}.{}", r.alnum(80), r.word(43)),
        Kind::PasswordHash => format!("$2b$12${}", r.text(&format!("{ALNUM}./"), 53)),
        Kind::UrlPassword => password(r).replace(['#', '?', '/'], "x"),
        Kind::BasicAuthorization => base64(format!("jane:{}", password(r)).as_bytes()),
        Kind::BearerAuthorization => r.alnum(32),
        Kind::Password => password(r),
        Kind::Secret => match r.below(4) { 0 => r.hex(32), 1 => r.alnum(24), 2 => r.word(43), _ => r.uuid() },
        Kind::Email => {
            let local = r.pick(&["jane.roe", "j.roe", "jroe42", "jane+code", "JaneRoe", "jane_roe"]);
            format!("{local}@{}", r.pick(&["gmail.com", "acme.io", "cs.uni-ulm.de", "mail.acme.co.uk", "web.de", "acme-labs.org"]))
        }
        other => panic!("no generator for {}", other.name()),
    }
}

fn base64(bytes: &[u8]) -> String {
    let digits = format!("{ALNUM}+/").into_bytes();
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits =
            three.iter().enumerate().fold(0, |bits, (i, byte)| bits | u32::from(*byte) << (16 - 8 * i));
        for i in 0..4 {
            text.push(if i <= three.len() {
                digits[(bits >> (18 - 6 * i) & 63) as usize] as char
            } else {
                '='
            });
        }
    }
    text
}
