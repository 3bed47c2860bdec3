import openai

openai.api_key = "YOUR_API_KEY"

response = openai.Completion.create(
    engine="text-davinci-003",
    prompt="写一首关于春天的诗",
    max_tokens=100,
)

print(response.choices[0].text)
