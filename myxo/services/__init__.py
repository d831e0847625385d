"""Services as programs use them: asked one request at a time, or one for each item of a map."""
