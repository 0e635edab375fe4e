"""Tic-tac-toe for two, and two more, and so on. Run it, then tic_tac_toe_client.py in two terminals; Ctrl-C ends it.

python tic_tac_toe_server.py
"""

from simplesockets import hisock

LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]

server = hisock.start_server(("127.0.0.1", 9999))
waiting = []  # who has no partner yet
games = {}  # by the address of each player


class Game:
    def __init__(self, players):
        self.marks = dict(zip((player.ip for player in players), "XO", strict=True))
        self.board = [" "] * 9
        self.turn, self.next = (player.ip for player in players)

    def show(self):
        for player in self.marks:
            server.send_client(player, "board", self.board)

    def play(self, player, place):
        """Set a mark. Gives what to tell the player if that is not possible."""
        if player != self.turn:
            return "It is not your turn."
        if place not in range(1, 10) or self.board[place - 1] != " ":
            return "Choose a free place from 1 to 9."
        self.board[place - 1] = self.marks[player]
        self.turn, self.next = self.next, self.turn
        self.show()
        return None

    def result(self):
        for one, two, three in LINES:
            if self.board[one] == self.board[two] == self.board[three] != " ":
                return f"{self.board[one]} wins."
        return None if " " in self.board else "Nobody wins."


def end(game, text):
    for player in game.marks:
        games.pop(player, None)
        try:
            server.send_client(player, "over", text)
        except hisock.ClientNotFound:
            pass  # it left


@server.on("join")
def join(client):
    waiting.append(client)
    if len(waiting) == 2:
        game = Game(waiting)
        waiting.clear()
        for player, mark in game.marks.items():
            games[player] = game
            server.send_client(player, "begin", mark)
        game.show()
        server.send_client(game.turn, "turn")


@server.on("leave")
def leave(client):
    if client in waiting:
        waiting.remove(client)
    if client.ip in games:
        end(games[client.ip], f"{client.name} left.")


@server.on("move")
def move(client, place: int):
    game = games.get(client.ip)
    if game is None:
        return
    wrong = game.play(client.ip, place)
    if wrong:
        server.send_client(client, "told", wrong)
    if result := game.result():
        end(game, result)
    else:
        server.send_client(game.turn, "turn")


print("tic-tac-toe on 127.0.0.1:9999", flush=True)
server.start()
