"""The page of the dialog."""

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Films</title>
<style>
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 2rem auto }
  #talk { list-style: none; padding: 0 }
  #talk li { margin: .5rem 0; padding: .5rem .75rem; border-radius: .5rem; background: #eef }
  #talk li.me { background: #efe; text-align: right }
  form { display: flex; gap: .5rem }
  input { flex: 1; font: inherit; padding: .5rem }
  button { font: inherit }
</style>
<h1>Which film tonight?</h1>
<ul id="talk" aria-live="polite"><li>Tell me of a film that you like, or not.</li></ul>
<form id="say">
  <input name="chatText" aria-label="Your words" autocomplete="off" required autofocus>
  <button>Say</button>
</form>
<script>
  const talk = document.querySelector("#talk"), form = document.querySelector("#say")
  let soFar = ""
  const show = (text, who) => {
    const line = document.createElement("li")
    line.textContent = text
    line.className = who
    talk.append(line)
  }
  form.addEventListener("submit", async event => {
    event.preventDefault()
    const said = new URLSearchParams(new FormData(form))
    said.set("soFar", soFar)
    show(said.get("chatText"), "me")
    form.reset()
    try {
      const answer = await fetch("/agent", {method: "POST", body: said})
      if (!answer.ok) throw new Error(await answer.text())
      const {response, soFar: now} = await answer.json()
      soFar = now
      show(response, "agent")
    } catch (error) {
      show(`There was no answer: ${error.message}`, "error")
    }
  })
</script>
</html>
"""
