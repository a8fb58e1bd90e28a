"""Words and sentence patterns of the toy reviews, written by hand in six languages.

Every table has one row per meaning and one column per language, in the order of `LANGUAGES`. A noun is followed by
its gender (`m f n`) or, in Chinese, its measure word. `;` separates synonyms.
"""

LANGUAGES = ("en", "fr", "zh", "de", "es", "ja")

CATEGORIES = ("kitchen", "book", "electronics", "apparel", "toy", "furniture", "beauty", "sports")


def table(text: str, head: int) -> list[tuple[list[str], dict[str, str]]]:
    """Parse rows of `a | b | ... ` into (the first `head` cells, {language: cell})."""
    rows = []
    for line in text.strip().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != head + len(LANGUAGES):
            raise ValueError(f"a lexicon row needs {head} + {len(LANGUAGES)} cells: {line!r}")
        rows.append((cells[:head], dict(zip(LANGUAGES, cells[head:], strict=True))))
    return rows


# category
PRODUCTS = table(
    """
kitchen     | blender      | mixeur m           | 搅拌机 台   | Mixer m         | batidora f          | ミキサー
kitchen     | kettle       | bouilloire f       | 电水壶 个   | Wasserkocher m  | hervidor m          | ケトル
kitchen     | pan          | poêle f            | 平底锅 个   | Pfanne f        | sartén f            | フライパン
book        | novel        | roman m            | 小说 本     | Roman m         | novela f            | 小説
book        | cookbook     | livre de cuisine m | 食谱 本     | Kochbuch n      | libro de cocina m   | 料理本
book        | travel guide | guide de voyage m  | 旅行指南 本 | Reiseführer m   | guía de viaje f     | 旅行ガイド
electronics | phone        | téléphone m        | 手机 部     | Handy n         | móvil m             | スマホ
electronics | camera       | caméra f           | 摄像机 台   | Kamera f        | cámara f            | カメラ
electronics | speaker      | enceinte f         | 音箱 个     | Lautsprecher m  | altavoz m           | スピーカー
apparel     | jacket       | veste f            | 夹克 件     | Jacke f         | chaqueta f          | ジャケット
apparel     | shirt        | chemise f          | 衬衫 件     | Hemd n          | camisa f            | シャツ
apparel     | sweater      | pull m             | 毛衣 件     | Pullover m      | jersey m            | セーター
toy         | puzzle       | puzzle m           | 拼图 套     | Puzzle n        | rompecabezas m      | パズル
toy         | doll         | poupée f           | 娃娃 个     | Puppe f         | muñeca f            | 人形
toy         | board game   | jeu de société m   | 桌游 套     | Brettspiel n    | juego de mesa m     | ボードゲーム
furniture   | chair        | chaise f           | 椅子 把     | Stuhl m         | silla f             | 椅子
furniture   | desk         | bureau m           | 书桌 张     | Schreibtisch m  | escritorio m        | デスク
furniture   | lamp         | lampe f            | 台灯 盏     | Lampe f         | lámpara f           | ランプ
beauty      | cream        | crème f            | 面霜 瓶     | Creme f         | crema f             | クリーム
beauty      | shampoo      | shampoing m        | 洗发水 瓶   | Shampoo n       | champú m            | シャンプー
beauty      | perfume      | parfum m           | 香水 瓶     | Parfüm n        | perfume m           | 香水
sports      | tent         | tente f            | 帐篷 顶     | Zelt n          | tienda de campaña f | テント
sports      | backpack     | sac à dos m        | 背包 个     | Rucksack m      | mochila f           | リュック
sports      | bike         | vélo m             | 自行车 辆   | Fahrrad n       | bicicleta f         | 自転車
""",
    head=1,
)

# category (`*`: every category) | the special qualities that fit (`-`: none)
ASPECTS = table(
    """
*           | -         | quality       | qualité f      | 质量   | Qualität f      | calidad f      | 品質
*           | beautiful | design        | design m       | 设计   | Design n        | diseño m       | デザイン
*           | sturdy    | packaging     | emballage m    | 包装   | Verpackung f    | embalaje m     | 梱包
kitchen     | sturdy    | handle        | poignée f      | 把手   | Griff m         | mango m        | 取っ手
kitchen     | sturdy    | lid           | couvercle m    | 盖子   | Deckel m        | tapa f         | ふた
kitchen     | easy      | cleaning      | nettoyage m    | 清洗   | Reinigung f     | limpieza f     | 手入れ
book        | clear     | writing style | style m        | 文笔   | Schreibstil m   | estilo m       | 文体
book        | beautiful | cover         | couverture f   | 封面   | Einband m       | portada f      | 表紙
book        | clear     | layout        | mise en page f | 排版   | Gestaltung f    | maquetación f  | レイアウト
electronics | sturdy    | battery       | batterie f     | 电池   | Akku m          | batería f      | バッテリー
electronics | pleasant  | sound         | son m          | 音质   | Klang m         | sonido m       | 音質
electronics | clear     | manual        | notice f       | 说明书 | Anleitung f     | manual m       | 説明書
apparel     | pleasant  | fabric        | tissu m        | 面料   | Stoff m         | tela f         | 生地
apparel     | beautiful | cut           | coupe f        | 剪裁   | Schnitt m       | corte m        | シルエット
apparel     | beautiful | color         | couleur f      | 颜色   | Farbe f         | color m        | 色
toy         | sturdy    | material      | matière f      | 材质   | Material n      | material m     | 素材
toy         | clear     | idea          | idée f         | 创意   | Idee f          | idea f         | アイデア
toy         | sturdy    | box           | boîte f        | 盒子   | Schachtel f     | caja f         | 箱
furniture   | easy      | assembly      | montage m      | 组装   | Aufbau m        | montaje m      | 組み立て
furniture   | sturdy    | frame         | structure f    | 框架   | Gestell n       | estructura f   | フレーム
furniture   | pleasant  | surface       | surface f      | 表面   | Oberfläche f    | superficie f   | 表面
beauty      | pleasant  | scent         | odeur f        | 气味   | Duft m          | aroma m        | 香り
beauty      | -         | effect        | effet m        | 效果   | Wirkung f       | efecto m       | 効果
beauty      | sturdy    | bottle        | flacon m       | 瓶子   | Flasche f       | frasco m       | ボトル
sports      | pleasant  | feel          | confort m      | 舒适度 | Komfort m       | comodidad f    | 使い心地
sports      | -         | workmanship   | finition f     | 做工   | Verarbeitung f  | acabado m      | 作り
sports      | easy      | handling      | maniement m    | 操作   | Handhabung f    | manejo m       | 扱い
""",
    head=2,
)

# degree | the subjects that take the quality. Only qualities of degree +-1 take modifiers and negation.
# French and Spanish: masculine/feminine; Japanese: stem and adjective class (i, na).
QUALITIES = table(
    """
1  | *         | good          | bon/bonne                 | 好         | gut             | bueno/buena                   | 良 i
1  | *         | satisfying    | satisfaisant/satisfaisante | 令人满意  | zufriedenstellend | satisfactorio/satisfactoria | 満足 na
1  | *         | impressive    | impressionnant/impressionnante | 出色  | beeindruckend   | impresionante/impresionante   | 見事 na
-1 | *         | bad           | mauvais/mauvaise          | 差         | schlecht        | malo/mala                     | 悪 i
-1 | *         | disappointing | décevant/décevante        | 令人失望   | enttäuschend    | decepcionante/decepcionante   | 残念 na
-1 | *         | poor          | médiocre/médiocre         | 糟糕       | mangelhaft      | deficiente/deficiente         | お粗末 na
1  | beautiful | beautiful     | beau/belle                | 漂亮       | schön           | bonito/bonita                 | 美し i
-1 | beautiful | ugly          | laid/laide                | 难看       | hässlich        | feo/fea                       | 醜 i
1  | sturdy    | sturdy        | solide/solide             | 结实       | stabil          | resistente/resistente         | 丈夫 na
-1 | sturdy    | fragile       | fragile/fragile           | 脆弱       | empfindlich     | frágil/frágil                 | もろ i
1  | easy      | easy          | facile/facile             | 简单       | einfach         | fácil/fácil                   | 簡単 na
-1 | easy      | complicated   | compliqué/compliquée      | 麻烦       | kompliziert     | complicado/complicada         | 面倒 na
1  | clear     | clear         | clair/claire              | 清楚       | klar            | claro/clara                   | 明快 na
-1 | clear     | confusing     | confus/confuse            | 混乱       | verwirrend      | confuso/confusa               | 分かりにく i
1  | pleasant  | pleasant      | agréable/agréable         | 舒服       | angenehm        | agradable/agradable           | 快適 na
-1 | pleasant  | unpleasant    | désagréable/désagréable   | 讨厌       | unangenehm      | desagradable/desagradable     | 不快 na
2  | *         | excellent;outstanding | excellent/excellente | 棒极了   | ausgezeichnet;hervorragend | excelente/excelente | 素晴らし i
2  | *         | perfect       | parfait/parfaite          | 很完美     | perfekt         | perfecto/perfecta             | 完璧 na
2  | *         | fantastic;wonderful | fantastique/fantastique;merveilleux/merveilleuse | 太棒了 | fantastisch;wunderbar | fantástico/fantástica;maravilloso/maravillosa | 最高 na
-2 | *         | terrible      | affreux/affreuse          | 糟透了     | furchtbar       | terrible/terrible             | ひど i
-2 | *         | awful;horrible | épouvantable/épouvantable;horrible/horrible | 差极了 | schrecklich | horrible/horrible;pésimo/pésima | 最悪 na
-2 | *         | useless       | inutilisable/inutilisable | 没法用     | unbrauchbar     | inservible/inservible         | 使い物にならな i
0  | *         | okay;acceptable | acceptable/acceptable;correct/correcte | 还可以 | akzeptabel;in Ordnung | aceptable/aceptable | まあまあ na
0  | *         | average       | moyen/moyenne             | 很一般     | durchschnittlich;mittelmäßig | regular/regular | 普通 na
""",
    head=2,
)

# degree | affirmed or negated. English after the subject; German verb/rest; Japanese with its particle.
VERBS = table(
    """
1  | yes | convinces me             | me convainc             | 让我信服       | überzeugt/mich        | me convence       | には納得しています
-1 | no  | does not convince me     | ne me convainc pas      | 没有让我信服   | überzeugt/mich nicht  | no me convence    | には納得していません
1  | yes | makes me happy           | me plaît                | 让我满意       | gefällt/mir           | me gusta          | は気に入っています
-1 | no  | does not make me happy   | ne me plaît pas         | 没有让我满意   | gefällt/mir nicht     | no me gusta       | は気に入っていません
-1 | yes | disappoints me           | me déçoit               | 让我失望       | enttäuscht/mich       | me decepciona     | にはがっかりしています
1  | no  | does not disappoint me   | ne me déçoit pas        | 没有让我失望   | enttäuscht/mich nicht | no me decepciona  | にはがっかりしていません
-1 | yes | bothers me               | me dérange              | 让我烦恼       | stört/mich            | me molesta        | には困っています
1  | no  | does not bother me       | ne me dérange pas       | 没有让我烦恼   | stört/mich nicht      | no me molesta     | には困っていません
""",
    head=2,
)

# Modifiers of a quality of degree +-1: name | the words before the quality.
MODIFIERS = table(
    """
plain      | -              | -                 | 很;挺           | -                 | -                | -
very       | very;really    | très;vraiment     | 非常;真的很     | sehr;wirklich     | muy;realmente    | とても;本当に
fairly     | fairly;rather  | plutôt;assez      | 比较;还算       | recht;einigermaßen | bastante;relativamente | わりと;比較的
not        | -              | -                 | 不              | -                 | -                | -
not_at_all | -              | du tout           | 一点也不;完全不 | -                 | nada             | 全然;まったく
not_very   | particularly;very | particulièrement;très | 不太;不怎么 | besonders;sehr  | especialmente;muy | あまり;それほど
""",
    head=1,
)

BRANDS = ("Velmo", "Nordal", "Tarento", "Kasuri", "Pirano")

PEOPLE = table(
    """
my sister     | ma sœur      | 我姐姐     | meine Schwester  | mi hermana    | 姉
my neighbor   | mon voisin   | 我邻居     | mein Nachbar     | mi vecino     | 隣人
the seller    | le vendeur   | 卖家       | der Verkäufer    | el vendedor   | 販売者
a friend      | un ami       | 一个朋友   | ein Freund       | un amigo      | 友人
the magazine  | le magazine  | 那本杂志   | die Zeitschrift  | la revista    | 雑誌
my boss       | mon chef     | 我老板     | mein Chef        | mi jefe       | 上司
""",
    head=0,
)

# As the receiver of a gift; German in the accusative.
RECEIVERS = table(
    """
my daughter   | ma fille       | 我女儿   | meine Tochter    | mi hija        | 娘
my son        | mon fils       | 我儿子   | meinen Sohn      | mi hijo        | 息子
my mother     | ma mère        | 我妈妈   | meine Mutter     | mi madre       | 母
a colleague   | un collègue    | 一个同事 | einen Kollegen   | un compañero   | 同僚
""",
    head=0,
)

TIMES = table(
    """
two weeks ago  | il y a deux semaines | 两周前   | vor zwei Wochen  | hace dos semanas   | 二週間前に
a month ago    | il y a un mois       | 一个月前 | vor einem Monat  | hace un mes        | 一か月前に
last year      | l'année dernière     | 去年     | letztes Jahr     | el año pasado      | 去年
last summer    | l'été dernier        | 去年夏天 | letzten Sommer   | el verano pasado   | 去年の夏に
in March       | en mars              | 三月     | im März          | en marzo           | 三月に
""",
    head=0,
)

# degree of the first product compared with the second
COMPARATIVES = table(
    """
1  | better             | meilleur/meilleure           | 好一些   | besser              | mejor                | 良
2  | much better;far better | bien meilleur/bien meilleure | 好得多 | viel besser;weitaus besser | mucho mejor | ずっと良
-1 | worse              | pire/pire                    | 差一些   | schlechter          | peor                 | 悪
-2 | much worse;far worse | bien pire/bien pire        | 差得多   | viel schlechter;weitaus schlechter | mucho peor | ずっと悪
""",
    head=1,
)

# degree | what the buyer does after the review. {it} is the product as an object.
OUTCOMES = table(
    """
2  | I would buy {it} again any time. | Je l'achèterais à nouveau sans hésiter. | 我随时愿意再买一次。 | Ich würde {it} jederzeit wieder kaufen. | {It} volvería a comprar sin dudarlo. | ぜひまた買いたいです。
-2 | I would not buy {it} again. | Je ne {it}'achèterais plus. | 我不会再买了。 | Ich würde {it} nicht wieder kaufen. | No {it} volvería a comprar. | もう買いたくありません。
1  | I can recommend {it}. | Je peux {it} recommander. | 我可以推荐。 | Ich kann {it} empfehlen. | {It} puedo recomendar. | おすすめできます。
-1 | I cannot recommend {it}. | Je ne peux pas {it} recommander. | 我没法推荐。 | Ich kann {it} nicht empfehlen. | No {it} puedo recomendar. | おすすめできません。
-2 | I wanted to keep {it}, but now I am sending {it} back. | Je voulais {it} garder, mais maintenant je {it} renvoie. | 我本来想留着，但现在要退货。 | Ich wollte {it} behalten, aber jetzt schicke ich {it} zurück. | Quería quedarme con {with_it}, pero ahora {it} devuelvo. | 手元に置きたかったのですが、今は返品します。
1  | I wanted to send {it} back, but now I am keeping {it}. | Je voulais {it} renvoyer, mais maintenant je {it} garde. | 我本来想退货，但现在要留着。 | Ich wollte {it} zurückschicken, aber jetzt behalte ich {it}. | Quería devolver{it}, pero ahora me quedo con {with_it}. | 返品したかったのですが、今は手元に置きます。
""",
    head=1,
)

# Sentences without information about the stars.
FILLERS = table(
    """
I bought {this_acc} {time}. | J'ai acheté {this} {time}. | 我{time}买了{this}。 | Ich habe {this_acc} {time} gekauft. | Compré {this} {time}. | {time}{this}を買いました。
It was a gift for {receiver}. | C'était un cadeau pour {receiver}. | 这是送给{receiver}的礼物。 | Es war ein Geschenk für {receiver}. | Fue un regalo para {receiver}. | {receiver}への贈り物でした。
The parcel arrived after {n} days. | Le colis est arrivé au bout de {n} jours. | 包裹{n}天后到了。 | Das Paket kam nach {n} Tagen an. | El paquete llegó a los {n} días. | 荷物は{n}日後に届きました。
I am writing this after {n} weeks. | J'écris ceci après {n} semaines. | 我用了{n}周后写下这些。 | Ich schreibe das nach {n} Wochen. | Escribo esto después de {n} semanas. | {n}週間使ってから書いています。
I ordered {this_acc} together with {n} other things. | J'ai commandé {this} avec {n} autres articles. | 我买{this}时还买了另外{n}样东西。 | Ich habe {this_acc} zusammen mit {n} anderen Sachen bestellt. | Pedí {this} junto con otras {n} cosas. | {this}はほかの{n}点と一緒に注文しました。
""",
    head=0,
)

TITLES = table(
    """
{Product}: my opinion | {Product} : mon avis | {Product}：我的看法 | {Product}: meine Meinung | {Product}: mi opinión | {Product}の感想
After {n} weeks | Après {n} semaines | 用了{n}周 | Nach {n} Wochen | Después de {n} semanas | {n}週間使って
{Product} for {receiver} | {Product} pour {receiver} | 给{receiver}的{Product} | {Product} für {receiver} | {Product} para {receiver} | {receiver}への{Product}
""",
    head=0,
)

# Sentence patterns by frame (see `toy.FRAMES`). Slots: clauses a and b with a form
# (main, past, sub: after a conjunction, inv: German verb first, would, that, it: with a pronoun as subject),
# x: the aspect that matters, person, this / other: the noun phrases of a comparison, cmp: the comparative.
# In Japanese a subordinate clause always comes first, so some patterns differ less there, as in real text.
PATTERNS: dict[str, dict[str, tuple[str, ...]]] = {
    "both": {
        "en": ("{a.main} and {b.main}.", "{a.main}. I also find that {b.sub}."),
        "fr": ("{a.main} et {b.main}.", "{a.main}. De plus, {b.main}."),
        "zh": ("{a.main}，而且{b.main}。", "{a.main}，{b.main}。"),
        "de": ("{a.main} und {b.main}.", "{a.main}. Außerdem {b.inv}."),
        "es": ("{a.main} y {b.main}.", "{a.main}. Además, {b.main}."),
        "ja": ("{a.main}。そして{b.main}。", "{a.main}。それに{b.main}。"),
    },
    "although": {
        "en": (
            "Although {a.sub}, {b.main}.",
            "{b.main}, although {a.sub}.",
            "Even though {a.sub}, {b.main}.",
            "{a.main}, but {b.main}.",
            "{b.main}, even if {a.sub}.",
        ),
        "fr": (
            "Même si {a.sub}, {b.main}.",
            "{b.main}, même si {a.sub}.",
            "{a.main}, mais {b.main}.",
            "Certes, {a.main}, mais {b.main}.",
        ),
        "zh": (
            "虽然{a.sub}，但是{b.main}。",
            "{b.main}，虽然{a.sub}。",
            "尽管{a.sub}，{b.main}。",
            "{a.main}，但{b.main}。",
        ),
        "de": (
            "Obwohl {a.sub}, {b.inv}.",
            "{b.main}, obwohl {a.sub}.",
            "{a.main}, aber {b.main}.",
            "Auch wenn {a.sub}, {b.inv}.",
            "{b.main}, auch wenn {a.sub}.",
        ),
        "es": (
            "Aunque {a.sub}, {b.main}.",
            "{b.main}, aunque {a.sub}.",
            "{a.main}, pero {b.main}.",
            "Si bien {a.sub}, {b.main}.",
        ),
        "ja": ("{a.main}が、{b.main}。", "{a.main}けれども、{b.main}。", "{b.main}。もっとも、{a.main}が。"),
    },
    "weigh": {
        "en": (
            "{a.main} and {b.main}. What matters most to me is {x}.",
            "For me {x} counts most: {b.main}, {a.main}.",
            "{b.main}, {a.main}. I mainly care about {x}.",
        ),
        "fr": (
            "{a.main} et {b.main}. Pour moi, c'est {x} qui compte le plus.",
            "Le plus important pour moi est {x} : {b.main}, {a.main}.",
        ),
        "zh": ("{a.main}，{b.main}。对我来说最重要的是{x}。", "我最看重{x}：{b.main}，{a.main}。"),
        "de": (
            "{a.main} und {b.main}. Für mich zählt vor allem {x}.",
            "Am wichtigsten ist mir {x}: {b.main}, {a.main}.",
        ),
        "es": (
            "{a.main} y {b.main}. Para mí lo más importante es {x}.",
            "Lo que más me importa es {x}: {b.main}, {a.main}.",
        ),
        "ja": (
            "{a.main}。{b.main}。私にとって一番大事なのは{x}です。",
            "一番重視するのは{x}です。{b.main}。{a.main}。",
        ),
    },
    "expected": {
        "en": (
            "I thought that {a.would}, but {b.it}.",
            "I had expected that {a.would}. In fact {b.it}.",
            "{b.main}, although I thought that {a.would}.",
        ),
        "fr": (
            "Je pensais que {a.would}, mais {b.it}.",
            "J'avais cru que {a.would}. En fait, {b.it}.",
            "{b.main}, alors que je pensais que {a.would}.",
        ),
        "zh": (
            "我以为{a.would}，但其实{b.it}。",
            "本来觉得{a.would}，结果{b.it}。",
            "{b.main}，我原来以为{a.would}。",
        ),
        "de": (
            "Ich dachte, dass {a.would}, aber {b.it}.",
            "Ich hatte erwartet, dass {a.would}. Tatsächlich {b.it_inv}.",
            "{b.main}, obwohl ich dachte, dass {a.would}.",
        ),
        "es": (
            "Pensaba que {a.would}, pero {b.it}.",
            "Creía que {a.would}. En realidad {b.it}.",
            "{b.main}, aunque pensaba que {a.would}.",
        ),
        "ja": (
            "{a.that}と思っていましたが、実際は{b.it}。",
            "{a.that}と期待していました。しかし{b.it}。",
            "{b.main}。{a.that}と思っていたのですが。",
        ),
    },
    "as_expected": {
        "en": ("I thought that {a.would}, and I was right.", "I had expected that {a.would}, and so it is."),
        "fr": (
            "Je pensais que {a.would}, et j'avais raison.",
            "J'avais cru que {a.would}, et c'est bien le cas.",
        ),
        "zh": ("我以为{a.would}，果然没错。", "本来觉得{a.would}，事实也是这样。"),
        "de": (
            "Ich dachte, dass {a.would}, und ich hatte recht.",
            "Ich hatte erwartet, dass {a.would}, und so ist es auch.",
        ),
        "es": ("Pensaba que {a.would}, y tenía razón.", "Creía que {a.would}, y así es."),
        "ja": ("{a.that}と思っていましたが、その通りでした。", "{a.that}と予想していて、実際にそうでした。"),
    },
    "said_true": {
        "en": ("{person} says that {a.sub}, and that is true.", "{person} finds that {a.sub}. I agree."),
        "fr": ("{person} dit que {a.sub}, et c'est vrai.", "{person} trouve que {a.sub}. Je suis d'accord."),
        "zh": ("{person}说{a.sub}，这是真的。", "{person}觉得{a.sub}，我同意。"),
        "de": (
            "{person} sagt, dass {a.sub}, und das stimmt.",
            "{person} findet, dass {a.sub}. Da stimme ich zu.",
        ),
        "es": ("{person} dice que {a.sub}, y es verdad.", "{person} opina que {a.sub}. Estoy de acuerdo."),
        "ja": (
            "{person}は{a.that}と言っていますが、それは本当です。",
            "{person}は{a.that}と言います。私も賛成です。",
        ),
    },
    "said_false": {
        "en": (
            "{person} says that {a.sub}, but that is not true.",
            "{person} finds that {a.sub}. I do not agree.",
        ),
        "fr": (
            "{person} dit que {a.sub}, mais ce n'est pas vrai.",
            "{person} trouve que {a.sub}. Je ne suis pas d'accord.",
        ),
        "zh": ("{person}说{a.sub}，这不是真的。", "{person}觉得{a.sub}，我不同意。"),
        "de": (
            "{person} sagt, dass {a.sub}, aber das stimmt nicht.",
            "{person} findet, dass {a.sub}. Da stimme ich nicht zu.",
        ),
        "es": (
            "{person} dice que {a.sub}, pero no es verdad.",
            "{person} opina que {a.sub}. No estoy de acuerdo.",
        ),
        "ja": (
            "{person}は{a.that}と言っていますが、それは本当ではありません。",
            "{person}は{a.that}と言います。私は賛成できません。",
        ),
    },
    "other": {
        "en": (
            "{a.past}, {b.main}.",
            "{b.main}, {a.past}.",
            "{a.past}, but {b.main}.",
            "{b.main}, while {a.past}.",
        ),
        "fr": (
            "{a.past}, {b.main}.",
            "{b.main}, {a.past}.",
            "{a.past}, mais {b.main}.",
            "{b.main}, alors que {a.past}.",
        ),
        "zh": (
            "{a.past}，{b.main}。",
            "{b.main}，{a.past}。",
            "{a.past}，但{b.main}。",
            "{b.main}，而{a.past}。",
        ),
        "de": (
            "{a.past}, {b.main}.",
            "{b.main}, {a.past}.",
            "{a.past}, aber {b.main}.",
            "{b.main}, während {a.past_sub}.",
        ),
        "es": (
            "{a.past}, {b.main}.",
            "{b.main}, {a.past}.",
            "{a.past}, pero {b.main}.",
            "{b.main}, mientras que {a.past}.",
        ),
        "ja": (
            "{a.past}。{b.main}。",
            "{b.main}。{a.past}。",
            "{a.past}が、{b.main}。",
            "{b.main}が、{a.past}。",
        ),
    },
    "this_than": {
        "en": ("{this} is {cmp} than {other}.",),
        "fr": ("{this} est {cmp} que {other}.",),
        "zh": ("{this}比{other}{cmp}。", "跟{other}比，{this}{cmp}。"),
        "de": ("{this} ist {cmp} als {other}.",),
        "es": ("{this} es {cmp} que {other}.",),
        "ja": ("{this}は{other}より{cmp}いです。", "{other}より{this}のほうが{cmp}いです。"),
    },
    "other_than": {
        "en": ("{other} was {cmp} than {this}.",),
        "fr": ("{other} était {cmp} que {this}.",),
        "zh": ("{other}比{this}{cmp}。", "跟{this}比，{other}{cmp}。"),
        "de": ("{other} war {cmp} als {this}.",),
        "es": ("{other} era {cmp} que {this}.",),
        "ja": ("{other}は{this}より{cmp}かったです。", "{this}より{other}のほうが{cmp}かったです。"),
    },
}
