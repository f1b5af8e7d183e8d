// The page.

import { render } from "preact";
import { start } from "./live";
import { Lists, Search } from "./panels/lists";
import { Plots } from "./panels/plots";
import { Why } from "./panels/why";
import { Picture } from "./picture";
import { announcement, connection, lostAt, refusal, view } from "./state";
import { follow, theme, turn } from "./theme";
import type { Wrong } from "./types";
import { clock, shown } from "./words";

function Page() {
  return (
    <>
      <a class="skip" href="#list">To the lists</a>
      <Header />
      <main>
        <Trouble />
        <div class="stage">
          <Picture />
          <Plots />
        </div>
        <aside aria-label="Questions and lists">
          <Why />
          <Lists />
        </aside>
      </main>
      <p class="hidden" aria-live="polite">{shown(announcement.value)}</p>
    </>
  );
}

function Header() {
  const now = view.value;
  const pods = now?.nodes.reduce((sum, node) => sum + node.pods.length, 0) ?? 0;
  return (
    <header>
      <h1><Mark />Podwire <span>{now ? shown(now.title) : ""}</span></h1>
      {now && <p class="counts"><b>{now.nodes.length}</b> nodes <b>{pods}</b> pods <b>{now.services.length}</b> Services</p>}
      <Search />
      <Link />
      <button type="button" class="theme" onClick={turn} aria-label={theme.value === "dark" ? "Light colours" : "Dark colours"}>
        {theme.value === "dark" ? "☀" : "☾"}
      </button>
    </header>
  );
}

function Mark() {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
      <path d="M6 5V27M6 9H17M6 16H17M6 23H17" />
      <rect x="17" y="5.5" width="10" height="7" rx="2.5" /><rect x="17" y="12.5" width="10" height="7" rx="2.5" /><rect x="17" y="19.5" width="10" height="7" rx="2.5" />
    </svg>
  );
}

function Link() {
  const words = { connecting: "connecting", live: "live", lost: "lost, trying again", refused: "refused" };
  return <p class={`link ${connection.value}`} role="status"><i />{words[connection.value]}</p>;
}

function Trouble() {
  const now = view.value;
  if (connection.value === "refused") {
    return <section class="trouble bad" role="alert"><p>This address has no valid token. Open the page with the address that podwire ui printed.</p></section>;
  }
  if (refusal.value) return <section class="trouble bad" role="alert"><p>The server does not answer this page: {shown(refusal.value)}</p></section>;
  if (lostAt.value !== null) return <Lost since={lostAt.value} shows={now !== null} />;
  if (!now) return null;
  if (now.wrong.length === 0) {
    const answering = now.nodes.filter((node) => node.answers).length;
    return <section class="trouble good" aria-label="What is wrong"><p><i />All {answering} agents answer, and nothing is wrong.</p></section>;
  }
  return (
    <section class="trouble bad" aria-label="What is wrong">
      <details open={now.wrong.length < 4}>
        <summary><i />{now.wrong.length === 1 ? "One thing is wrong" : `${now.wrong.length} things are wrong`}</summary>
        <ul>{now.wrong.slice(0, 60).map((one, index) => <WrongLine key={index} one={one} />)}</ul>
        {now.wrong.length > 60 && <p>And {now.wrong.length - 60} more.</p>}
      </details>
    </section>
  );
}

/** What was last known may have changed since then, for better or worse: so none of it is claimed. */
function Lost({ since, shows }: { since: number; shows: boolean }) {
  const at = clock(new Date(since).toISOString());
  const until = shows && " The page shows how it was until then.";
  return <section class="trouble bad" role="alert"><p>Nothing is known since {at}: podwire ui does not answer. Is it still running?{until}</p></section>;
}

function WrongLine({ one }: { one: Wrong }) {
  const words = { silent: "no answer", warning: "warning", difference: "differs", failure: "failed" };
  return (
    <li>
      <span class={`tag ${one.kind}`}>{words[one.kind]}</span> <b>{shown(one.node)}</b> {one.object && `${shown(one.object)}: `}{shown(one.text)}
    </li>
  );
}

/** A slash goes to the search, as in many places; Escape leaves it. */
function keys(event: KeyboardEvent): void {
  const target = event.target as HTMLElement;
  const field = document.querySelector<HTMLInputElement>("input.search");
  if (event.key === "/" && target.tagName !== "INPUT") {
    event.preventDefault();
    field?.focus();
  } else if (event.key === "Escape" && target === field) {
    field.value = "";
    field.dispatchEvent(new Event("input"));
    field.blur();
  }
}

// Asked for first: the answer comes while the page is drawn.
void start();
follow();
document.addEventListener("keydown", keys);
render(<Page />, document.getElementById("page")!);
