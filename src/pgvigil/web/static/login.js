// The token goes to the service once; it answers with a cookie that no script can read.

const page = new URLSearchParams(location.search).get("to") || "";
// A page of this dashboard and nothing else: no other site can have us lead there.
const next = /^[a-z]*(\?[^#]*)?$/.test(page) ? page || "./" : "./";
const content = document.getElementById("content");

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

if (document.body.dataset.tokens === "yes") {
  const token = element("input", { type: "password", name: "token", required: true, autocomplete: "current-password", id: "token", maxLength: 500 });
  const problem = element("p", { className: "problem" });
  problem.setAttribute("role", "alert");
  const form = element("form", { className: "card login" }, element("p", { className: "muted" }, "A token is made by: pgvigil token create NAME --role viewer --auth-token-file FILE"),
    element("input", { type: "text", name: "username", autocomplete: "username", value: "token", hidden: true }), // for password managers
    element("label", { htmlFor: "token" }, "Token"), token, problem, element("div", { className: "buttons" }, element("button", { type: "submit", className: "primary" }, "Log in")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.textContent = "";
    try {
      const answer = await fetch("login", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token: token.value }) });
      if (answer.ok) { location.replace(next); return; }
      const document = await answer.json();
      problem.textContent = answer.status === 429 ? "Too many failed attempts. Wait a minute." : `${document.title}.`;
    } catch {
      problem.textContent = "This service does not answer.";
    }
    token.select();
  });
  content.append(form);
  token.focus();
} else {
  content.append(element("p", { className: "card login" }, "This page belongs to another application. Log in there, and load this page again."));
}
