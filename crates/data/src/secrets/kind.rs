//! The kinds of secrets: for each its name in reports, what stands in its place, what it looks like and who says so.
//!
//! Earlier kinds win where two are found in one place, so those with a form of their own come first and those known by
//! what is written beside them last.

use serde::{Serialize, Serializer};

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident, $name:literal, $word:ident;)+) => {
        /// What a secret is. The documentation of a kind says what it looks like, and where that is laid down.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Kind {
            $($(#[doc = $doc])+ $kind,)+
        }

        impl Kind {
            /// Every kind; earlier ones win over later ones.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind),+];

            /// The name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)+ }
            }

            /// What is written in place of the secret.
            pub const fn placeholder(self) -> &'static str {
                match self { $(Kind::$kind => $word,)+ }
            }
        }
    };
}

const KEY: &str = "<KEY>";
const PASSWORD: &str = "<PASSWORD>";
const EMAIL: &str = "<EMAIL>";

/// Every placeholder: text that holds one of these was redacted before.
pub(super) const PLACEHOLDERS: [&str; 3] = [KEY, PASSWORD, EMAIL];

kinds! {
    /// What lies between the BEGIN and END lines of any PEM private key (PKCS#1, PKCS#8, EC, DSA, OpenSSH, PGP, SSH2), and
    /// the private lines of a PuTTY key. RFC 7468, RFC 4880, RFC 4716.
    PrivateKey, "private_key", KEY;
    /// `AGE-SECRET-KEY-1` and 58 Bech32 characters. The age v1 specification.
    AgeKey, "age_key", KEY;
    /// `AKIA`, `ASIA`, `ABIA` or `ACCA` and 16 capitals or digits. AWS IAM guide, unique identifiers.
    AwsAccessKeyId, "aws_access_key_id", KEY;
    /// 40 characters of base64 beside a name that ends in a secret of AWS. AWS IAM guide, access keys.
    AwsSecretKey, "aws_secret_key", KEY;
    /// `ghp_`, `gho_`, `ghu_`, `ghs_`, `ghr_` and 36 letters or digits, or `github_pat_` and 82. GitHub's token formats.
    GithubToken, "github_token", KEY;
    /// `glpat-`, `gldt-`, `glrt-` and others, and 20 or more characters. GitLab's token overview.
    GitlabToken, "gitlab_token", KEY;
    /// `ATATT3`, `ATCTT3` or `ATBB`. Atlassian's API tokens, Bitbucket's app passwords.
    AtlassianToken, "atlassian_token", KEY;
    /// `xoxb-`, `xoxp-`, `xapp-` and others. Slack's token types.
    SlackToken, "slack_token", KEY;
    /// `https://hooks.slack.com/services/T.../B.../...` (the path). Slack's incoming webhooks.
    SlackWebhook, "slack_webhook", KEY;
    /// Three parts with dots of 24 to 28, 6 and 27 to 40 characters, the first one a number in base64. Discord's reference.
    DiscordToken, "discord_token", KEY;
    /// `https://discord.com/api/webhooks/ID/TOKEN` (the token). Discord's webhook resource.
    DiscordWebhook, "discord_webhook", KEY;
    /// 8 to 10 digits, a colon and 35 characters that start with `AA`. Telegram's bot API.
    TelegramToken, "telegram_token", KEY;
    /// `sk_live_`, `sk_test_`, `rk_live_`, `rk_test_` and `whsec_`. Stripe's API keys; `pk_` keys are public.
    StripeKey, "stripe_key", KEY;
    /// `sq0atp-`, `sq0csp-` and `EAAA`. Square's access tokens.
    SquareToken, "square_token", KEY;
    /// `shpat_`, `shpca_`, `shppa_`, `shpss_` and 32 hexadecimal digits. Shopify's changelog of token formats.
    ShopifyToken, "shopify_token", KEY;
    /// `AIza` and 35 characters. Google Cloud, API keys.
    GoogleApiKey, "google_api_key", KEY;
    /// `GOCSPX-` and 28 characters (client secrets), `ya29.` (access tokens), `1//0` (refresh tokens). Google's OAuth 2.0.
    GoogleOauth, "google_oauth", KEY;
    /// 88 characters of base64 at `AccountKey`, 44 at `SharedAccessKey`, `sig=` of a shared access signature, a client
    /// secret with `8Q~` or `7Q~` inside. Azure's connection strings; Entra's client secrets.
    AzureKey, "azure_key", KEY;
    /// `npm_` and 36 letters or digits. npm's access tokens.
    NpmToken, "npm_token", KEY;
    /// `pypi-AgE...`, a macaroon in base64. PyPI's help on API tokens.
    PypiToken, "pypi_token", KEY;
    /// `rubygems_` and 48 hexadecimal digits. RubyGems' guide on API keys.
    RubygemsToken, "rubygems_token", KEY;
    /// `cio` and 32 letters or digits. The Rust registry's token scheme.
    CratesToken, "crates_token", KEY;
    /// `oy2` and 43 small letters or digits. NuGet's API keys.
    NugetKey, "nuget_key", KEY;
    /// `dckr_pat_` and `dckr_oat_`. Docker Hub's access tokens.
    DockerToken, "docker_token", KEY;
    /// `hf_` or `api_org_` and 34 letters. Hugging Face's user access tokens.
    HuggingFaceToken, "hugging_face_token", KEY;
    /// `sk-ant-` and 80 or more characters. Anthropic's API keys.
    AnthropicKey, "anthropic_key", KEY;
    /// `sk-` and 32 to 64 letters or digits, or `sk-proj-`, `sk-svcacct-`, `sk-admin-`. OpenAI's keys, and those of the
    /// services that took over the form.
    OpenaiKey, "openai_key", KEY;
    /// `r8_` and 37 characters. Replicate's tokens.
    ReplicateToken, "replicate_token", KEY;
    /// `gsk_` and 52 letters or digits (Groq), `xai-` and 80 (xAI), `pplx-` and 48 (Perplexity). Their consoles.
    ModelServiceKey, "model_service_key", KEY;
    /// `SK` or `AC` and 32 hexadecimal digits, or 32 beside a name with `twilio`. Twilio's API keys.
    TwilioKey, "twilio_key", KEY;
    /// `SG.`, 22 characters, a dot and 43. SendGrid's API keys.
    SendgridKey, "sendgrid_key", KEY;
    /// `key-` and 32 hexadecimal digits, or 32, 8 and 8 with hyphens. Mailgun's API keys.
    MailgunKey, "mailgun_key", KEY;
    /// 32 hexadecimal digits, `-us` and a number. Mailchimp's API keys.
    MailchimpKey, "mailchimp_key", KEY;
    /// `xkeysib-` or `xsmtpsib-`, 64 hexadecimal digits, a hyphen and 16 characters. Brevo's keys.
    BrevoKey, "brevo_key", KEY;
    /// `HRKU-`, or a UUID beside a name with `heroku`. Heroku's platform API.
    HerokuKey, "heroku_key", KEY;
    /// `dop_v1_`, `doo_v1_` or `dor_v1_` and 64 hexadecimal digits. DigitalOcean's tokens.
    DigitaloceanToken, "digitalocean_token", KEY;
    /// `LTAI` and 16 to 20 letters or digits. Alibaba Cloud's access keys.
    AlibabaKey, "alibaba_key", KEY;
    /// `AKID` and 32 letters or digits. Tencent Cloud's secret ids.
    TencentKey, "tencent_key", KEY;
    /// `dapi` and 32 hexadecimal digits. Databricks' access tokens.
    DatabricksToken, "databricks_token", KEY;
    /// `hvs.`, `hvb.`, `hvr.` (Vault), `atlasv1.` (Terraform Cloud). HashiCorp's tokens.
    HashicorpToken, "hashicorp_token", KEY;
    /// `pul-` and 40 hexadecimal digits. Pulumi's access tokens.
    PulumiToken, "pulumi_token", KEY;
    /// `dp.pt.`, `dp.st.` and others. Doppler's tokens.
    DopplerToken, "doppler_token", KEY;
    /// `glsa_`, `glc_eyJ`. Grafana's service accounts and cloud policies.
    GrafanaToken, "grafana_token", KEY;
    /// `NRAK-` and 27 capitals or digits. New Relic's user keys.
    NewRelicKey, "new_relic_key", KEY;
    /// `sntrys_eyJ`, `sntryu_`. Sentry's tokens.
    SentryToken, "sentry_token", KEY;
    /// `dt0c01.`, 24 characters, a dot and 64. Dynatrace's tokens.
    DynatraceToken, "dynatrace_token", KEY;
    /// `pscale_tkn_`, `pscale_pw_`, `pscale_oauth_`. PlanetScale's tokens and passwords.
    PlanetscaleToken, "planetscale_token", KEY;
    /// `sbp_` and 40 hexadecimal digits, `sb_secret_`. Supabase's tokens and keys.
    SupabaseKey, "supabase_key", KEY;
    /// `lin_api_` and 40 letters or digits. Linear's API keys.
    LinearKey, "linear_key", KEY;
    /// `PMAK-`, 24 hexadecimal digits, a hyphen and 34. Postman's API keys.
    PostmanKey, "postman_key", KEY;
    /// `ntn_`, or `secret_` and 43 letters or digits. Notion's integration tokens.
    NotionToken, "notion_token", KEY;
    /// `pat`, 14 characters, a dot and 64 hexadecimal digits. Airtable's personal access tokens.
    AirtableToken, "airtable_token", KEY;
    /// `figd_` and 40 or more characters. Figma's personal access tokens.
    FigmaToken, "figma_token", KEY;
    /// `sl.` and 130 or more characters. Dropbox's short-lived tokens.
    DropboxToken, "dropbox_token", KEY;
    /// `EAA` and 100 or more letters or digits. Facebook's access tokens.
    FacebookToken, "facebook_token", KEY;
    /// `sk.eyJ`. Mapbox's secret tokens; `pk.` tokens are public.
    MapboxToken, "mapbox_token", KEY;
    /// `nfp_` (Netlify), `fm2_` (Fly), `bkua_` (Buildkite), `CCIPAT_` (CircleCI), `sgp_` (Sourcegraph), `pnu_` (Prefect),
    /// `shippo_live_`, `EZAK`, `CFPAT-`, `tfp_`, `rdme_`, `ops_eyJ` (1Password): services of one form each.
    ServiceToken, "service_token", KEY;
    /// Three parts of base64url with dots, the first two JSON objects, so that both start with `eyJ`. RFC 7519.
    Jwt, "jwt", KEY;
    /// A hash by bcrypt, `$2b$10$` and 53 characters: a password that can be guessed at leisure. crypt(5).
    PasswordHash, "password_hash", PASSWORD;
    /// The password in `scheme://user:password@host`, or a long random user. RFC 3986, 3.2.1.
    UrlPassword, "url_password", PASSWORD;
    /// The value of `Authorization: Basic`: base64 of a user, a colon and a password. RFC 7617.
    BasicAuthorization, "basic_authorization", KEY;
    /// The value of `Authorization: Bearer`, or of `Token`, where it looks random. RFC 6750.
    BearerAuthorization, "bearer_authorization", KEY;
    /// A literal beside a name that ends in `password`, `passwd`, `pwd`, `pass` or `passphrase`, unless it reads like a word,
    /// a name or an example.
    Password, "password", PASSWORD;
    /// A literal that looks random beside a name that ends in `secret`, `token`, `api_key` or the like.
    Secret, "secret", KEY;
    /// An e-mail address. RFC 5322, without its rarities; a known top-level domain; no domain that is reserved for examples.
    Email, "email", EMAIL;
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
