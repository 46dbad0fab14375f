"""Tasks whose pictures and questions are drawn by a program, one file each.

A file here declares `TASK`, a `DrawnTask`; files and folders with an underscore are shared by the tasks.
Training, scores and tables take for granted what `tests/conformance/test_tasks.py` tests of every registered
drawn task, plug-ins included, over 900 scenes of the three splits:

1. A picture is RGB, `SIDE`×`SIDE` pixels. A scene has at least one question, and no question twice.
2. Every accepted answer scores 1 under every metric.
3. An empty answer and nonsense score 0 under every metric.
4. Answers shuffled within a type score little more than chance (how often two answers of the type are equal,
   plus 0.15), and below 0.4 in all: many different answers.
5. No two splits share a picture; `held_apart` sees to that if its key tells pictures apart.
6. The same random numbers give every split another picture: ask `held_apart` for all that a picture shows.
7. Another index or seed gives another picture; 90 % of 400 training pictures differ.
8. Another process with another hash seed gives the same bytes: no iteration over sets, no `hash`.
9. Texts are lower-case words, numbers, `. , : ? ( ) [ ] / % $ -` and single blanks. Capital letters quote
   what is printed in the picture. A question's text begins in lower case. Its first answer doesn't end in one
   of `. , ? :`.
10. A question has at most 16 words, choices not counted; an answer at most 16 tokens, a caption's 42.
11. No answer of a type is right more often than 35 %, or 8 points above its share where a type has two or
    three answers in all.
12. `types` are just those that are asked, each in at least 1 % of the questions.
13. `known` holds some of the types. Of a trained task they cover 35 to 65 % of the questions; an untrained
    task has none.
14. Every scene of a trained task has captions. No caption opens with the same three words as one of the
    task's questions, and none is any task's question word for word.
"""
